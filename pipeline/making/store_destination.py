"""A place in a store of objects that shards are made in, by S3's rules: whole objects, and no renames.

Workers put shards there under the names that they keep.  Below `.making/` lie, while a run is not at its end,
the lease of the run, its plan, and an object for each finished shard.  Without manifest.json, which comes
last and only if there is none, nobody takes the shards for a split.  A run killed at any time is picked up.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from turbomim.pipeline.making.destination import Destination, difference
from turbomim.pipeline.making.journal import PLAN, line_of, result_of
from turbomim.pipeline.making.shard_job import LEASE, ShardResult
from turbomim.pipeline.places.lease import Lease
from turbomim.pipeline.places.opening import is_writable
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.places.retries import impatient
from turbomim.pipeline.places.stores import WRITABLE
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.executors import on_threads
from turbomim.pipeline.system.remedies import Exists, explain
from turbomim.pipeline.tars.manifest import MAKING, MANIFEST, Shard, index_name

RESULTS = f"{MAKING}/results"
# seconds for which a run that ends by an error tries to clean up
CLEANING = 1.0


class StoreDestination(Destination):
    """A place in a bucket."""

    def __init__(self, place: Place) -> None:
        self.place, self.where = place, str(place)
        if not is_writable(place):
            schemes = " or ".join(f"{scheme}://" for scheme in WRITABLE)
            raise UserError(f"{self.where!r} can only be read: make shards in a folder, or in {schemes}")
        self._lease = Lease(place, LEASE, what=repr(self.where), other="choose another place")
        self.mark = self._lease.mark
        self._results: dict[int, ShardResult] = {}

    def check(self, source: str) -> None:
        """Check that it is outside the source, and new, empty or of an earlier run."""
        if f"{self.where}/".startswith(f"{source.rstrip('/')}/"):
            raise UserError(f"{self.where!r} lies in the source {source!r}: choose a place outside it")
        files = self._files()
        if files and MANIFEST not in files and not _of_making(files):
            raise UserError(f"{self.where!r} is not empty: empty it, or choose another place")

    def is_finished(self, *, held: bool = False) -> bool:
        """Whether its manifest is there and, unless it is held, no run is left to clean up."""
        files = self._files()
        return MANIFEST in files and (held or not _of_making(files))

    @contextmanager
    def held(self, *, lock: bool) -> Iterator[None]:
        """Hold the lease of the place, and remove what is below `.making/` at the end.

        After an error that stays if there is any shard.
        """
        with self._refusals("write to"):
            self._lease.take()
        with self._lease:
            try:
                yield
            except BaseException:
                # what is wrong with the store has been said
                with suppress(UserError), impatient(CLEANING):
                    files = self._files()
                    if files.keys() == set(_of_making(files)):
                        self._clean(files)
                raise
            self._clean(self._files())

    def agree_on_plan(self, plan: dict[str, Any]) -> None:
        """Record the plan of a new run; raise UserError if an earlier run had another."""
        plan = json.loads(json.dumps(plan))
        files = self._files()
        name = f"{MAKING}/{PLAN}"
        if name not in files:
            if files.keys() != set(_of_making(files)):
                raise UserError(f"{self.where!r} is not empty: empty it, or choose another place")
            self._put(name, json.dumps(plan).encode())
            return
        with self._refusals("read"):
            other = difference(json.loads(self.place.read(name)), plan)
        if other:
            raise UserError(
                f"{self.where!r} holds an unfinished run with {other}: give what it was given, or remove all "
                "that is there to start again"
            )

    def results(self) -> dict[int, ShardResult]:
        """Read what ended, and keep what is there in its full size."""
        files = self._files()
        names = [name for name in files if name.startswith(f"{RESULTS}/")]
        with self._refusals("read"):
            results = on_threads(lambda name: result_of(self.place.read(name)), names)
        # once shards get other names, a job that ran again would replace one of another job
        moving = any(r.shard and r.shard.name != _first_name(r.shard, r.number) for r in results)
        self._results = {r.number: r for r in results if moving or _is_whole(files, r)}
        return dict(self._results)

    def check_space(self, needed: int) -> None:
        """A store does not say what it has left."""

    @contextmanager
    def recording(self, kept: dict[int, ShardResult]) -> Iterator[None]:
        """Each result is an object of its own."""
        yield

    def record(self, result: ShardResult) -> None:
        """Put the result of a job, if its shard is there."""
        self._lease.check()
        if result.shard is not None:
            names = [result.shard.name, index_name(result.shard.name)]
            with self._refusals("find what a worker wrote in"):
                files = {name: self.place.status(name) for name in names}
            if not _is_whole(files, result):
                raise UserError(
                    f"a worker wrote {self.place.at(names[0])!r}, and another shard is there: let no other "
                    "program write there"
                )
        self._keep(result)

    def publish(self, shards: dict[str, str], listings: dict[str, bytes]) -> None:
        """Copy shards to their final names within the store, put the listings, and the last one if absent."""
        owners = {result.shard.name: result for result in self._results.values() if result.shard}
        for old, new in shards.items():
            if old != new and old in owners:
                self._move(owners[old], new)
        files = self._files()
        for result in self._results.values():
            if not _is_whole(files, result):
                assert result.shard is not None
                raise UserError(
                    f"{self.place.at(result.shard.name)!r} is gone, or is another shard: remove all that is "
                    "there and start again"
                )
        *names, last = listings
        self._delete_copied(set(shards.values()))
        on_threads(lambda name: self._put(name, listings[name]), names)
        self._lease.check()
        with self._refusals("write to"):
            try:
                self.place.put(last, listings[last], if_absent=True)
            except Exists:
                # of a request that was made again, its first answer lost
                if self.place.read(last) != listings[last]:
                    raise

    def _move(self, result: ShardResult, new: str) -> None:
        """Give a shard another name: copied, then noted, so that a killed move is made again.

        Moves are in order, and to lower numbers: what is copied is replaced by the next move alone.
        """
        assert result.shard is not None
        old = result.shard.name
        self._lease.check()
        with self._refusals("write to"):
            self.place.copy(old, new)
            self.place.copy(index_name(old), index_name(new))
        self._keep(replace(result, shard=replace(result.shard, name=new)))

    def _delete_copied(self, final: set[str]) -> None:
        """Remove the shards whose copies have their final names."""
        given = (_first_name(r.shard, r.number) for r in self._results.values() if r.shard)
        old = {name for tar in given for name in (tar, index_name(tar))}
        on_threads(self._delete, sorted(old - final))

    def _keep(self, result: ShardResult) -> None:
        self._put(f"{RESULTS}/{result.number:07d}.json", line_of(result))
        self._results[result.number] = result

    def _clean(self, files: dict[str, Status]) -> None:
        """Remove what is below `.making/`, the plan behind the results; the lease goes by itself."""
        names = [name for name in _of_making(files) if name != LEASE]
        plans = [name for name in names if name.startswith(f"{MAKING}/{PLAN}")]
        on_threads(self._delete, [name for name in names if name not in plans])
        on_threads(self._delete, plans)

    def _files(self) -> dict[str, Status]:
        with self._refusals("use"):
            return self.place.files()

    def _put(self, name: str, content: bytes) -> None:
        with self._refusals("write to"):
            self.place.put(name, content)

    def _delete(self, name: str) -> None:
        with self._refusals("write to"):
            self.place.delete(name)

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Raise UserError for what the store refuses."""
        try:
            yield
        except OSError as error:
            helps = "check the URL and what the keys may do there"
            raise UserError(f"cannot {what} {self.where!r}: {explain(error, helps)}") from error


def _of_making(files: dict[str, Status]) -> list[str]:
    return [name for name in files if name.startswith(f"{MAKING}/")]


def _first_name(shard: Shard, number: int) -> str:
    """Give the name of a shard as job `number` named it."""
    return f"{shard.name.rpartition('-')[0]}-{number:06d}.tar"


def _is_whole(files: dict[str, Status], result: ShardResult) -> bool:
    """Whether the tar of a result has its size, and its index is there."""
    if result.shard is None:
        return True
    tar = files.get(result.shard.name)
    return tar is not None and tar.bytes == result.shard.bytes and index_name(result.shard.name) in files
