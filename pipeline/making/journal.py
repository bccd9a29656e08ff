"""A folder that shards are made in: `.making` there while a run is not at its end, and how it resumes.

It holds the plan, the finished shards, and a journal: a line for each shard that is durable with its index.
At the end everything is renamed into place, manifest.json last, and `.making` goes.  A run killed at any time
is picked up where the journal ends.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from turbomim.pipeline.making.destination import Destination, difference
from turbomim.pipeline.making.shard_job import ShardResult
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.system.durable import check_space, sync, sync_folder, write_durably
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.folder_lock import LOCK, folder_lock
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.listings import BadImage
from turbomim.pipeline.tars.manifest import MAKING, MANIFEST, Shard

PLAN = "plan.json"
JOURNAL = "journal.jsonl"
PUBLISHING = "publishing"


class FolderDestination(Destination):
    """A folder of this machine, or one that all workers see under the same path."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / MAKING
        self.place, self.where = Folder(folder), os.path.abspath(self.work)
        self._journal: BinaryIO | None = None

    def check(self, source: str) -> None:
        """Check that it is outside the source, and new, empty or of an earlier run."""
        folder = self.folder
        if os.path.isdir(source) and folder.resolve().is_relative_to(Path(source).resolve()):
            raise UserError(f"{str(folder)!r} lies in the source {source!r}: choose a folder outside it")
        try:
            empty = not folder.exists() or not any(folder.iterdir())
            ours = self.work.exists() or (folder / MANIFEST).exists()
        except OSError as error:
            raise UserError(
                f"cannot use {str(folder)!r}: {explain(error, 'choose another folder')}"
            ) from error
        if not empty and not ours:
            raise UserError(f"{str(folder)!r} exists and is not empty: empty it, or choose another folder")

    def is_finished(self, *, held: bool = False) -> bool:
        """Whether its manifest is there and, unless it is held, no run is left to clean up."""
        return (self.folder / MANIFEST).exists() and (held or not self.work.exists())

    @contextmanager
    def held(self, *, lock: bool) -> Iterator[None]:
        """Lock `.making`, new or left by an earlier run, and remove it at the end.

        After an error it stays if any shard in it is finished; else the folder is left as it was found.
        """
        existed = self.folder.exists()
        other, without = "choose another folder", "--lock false"
        with folder_lock(self.work, what=self.folder, other=other, without=without, wanted=lock):
            try:
                yield
            except BaseException:
                if not any(result.shard for result in read_journal(self.work).values()):
                    _remove(self.work)
                    if not existed:
                        with suppress(OSError):
                            self.folder.rmdir()
                raise
            _remove(self.work)

    def agree_on_plan(self, plan: dict[str, Any]) -> None:
        """Record the plan of a new run; raise UserError if an earlier run had another."""
        path = self.work / PLAN
        plan = json.loads(json.dumps(plan))
        if not path.exists():
            others = sorted(file.name for file in self.folder.iterdir() if file != self.work)
            if others:
                raise UserError(
                    f"{str(self.folder)!r} exists and is not empty: empty it, or choose another folder"
                )
            # of a run that ended while it removed what it had
            (self.work / JOURNAL).unlink(missing_ok=True)
            write_durably(path, json.dumps(plan).encode())
            return
        other = difference(json.loads(path.read_bytes()), plan)
        if other:
            raise UserError(
                f"{str(self.folder)!r} holds an unfinished run with {other}: give what it was given, or "
                "remove the folder to start again"
            )

    def results(self) -> dict[int, ShardResult]:
        """Read the journal, and keep what is there in its full size."""
        results = read_journal(self.work)
        if (self.work / PUBLISHING).exists():
            return results
        return {number: result for number, result in results.items() if self._is_whole(result)}

    def check_space(self, needed: int) -> None:
        """Check that so many bytes fit on its disk."""
        check_space(self.folder, needed)

    @contextmanager
    def recording(self, kept: dict[int, ShardResult]) -> Iterator[None]:
        """Open the journal anew, with the results to keep."""
        write_durably(self.work / JOURNAL, b"".join(line_of(result) for result in kept.values()))
        with open(self.work / JOURNAL, "ab") as self._journal:
            yield

    def record(self, result: ShardResult) -> None:
        """Append the result of a job whose files are durable, durably."""
        assert self._journal is not None
        if not self._is_whole(result):
            raise UserError(
                f"a worker wrote a shard into {str(self.work)!r} that is not there: give workers the same "
                "disk under the same path"
            )
        try:
            self._journal.write(line_of(result))
            self._journal.flush()
            sync(self._journal.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self._journal.name!r}: {explain(error, 'check the disk')}; "
                "then run the same command again"
            ) from error

    def publish(self, shards: dict[str, str], listings: dict[str, bytes]) -> None:
        """Write the listings, and move everything into place, the last listing last.

        Raises UserError if a file is in neither place.
        """
        for name, content in listings.items():
            write_durably(self.work / name, content)
        write_durably(self.work / PUBLISHING, b"")
        *names, last = listings
        self._move(shards | {name: name for name in names})
        self._move({last: last})

    def _move(self, names: dict[str, str]) -> None:
        """Rename files of `.making` to their final names beside it, in order."""
        for old, new in names.items():
            try:
                os.replace(self.work / old, self.folder / new)
            except OSError as error:
                if not (isinstance(error, FileNotFoundError) and (self.folder / new).exists()):
                    helps = f"remove {str(self.folder)!r} and start again"
                    raise UserError(
                        f"cannot move {str(self.work / old)!r} to {new!r}: {explain(error, helps)}"
                    ) from error
        sync_folder(self.folder)

    def _is_whole(self, result: ShardResult) -> bool:
        """Whether the tar of a result has its size, and its index is there."""
        if result.shard is None:
            return True
        tar = self.work / result.shard.name
        try:
            return tar.stat().st_size == result.shard.bytes and tar.with_suffix(".idx").exists()
        except OSError:
            return False


def read_journal(work: Path) -> dict[int, ShardResult]:
    """Read the result of each finished job by its number; a last line cut short by a kill is left out."""
    try:
        lines = (work / JOURNAL).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return {}
    results = (result_of(line) for line in lines)
    return {result.number: result for result in results}


def line_of(result: ShardResult) -> bytes:
    """Write a result as a line of JSON."""
    return json.dumps(asdict(result)).encode() + b"\n"


def result_of(line: str | bytes) -> ShardResult:
    """Read `line_of`'s line."""
    tree = json.loads(line)
    return ShardResult(
        number=tree["number"],
        shard=Shard(**tree["shard"]) if tree["shard"] else None,
        index_sha256=tree["index_sha256"],
        bad=tuple(BadImage(**image) for image in tree["bad"]),
        samples_by_label={int(label): count for label, count in tree["samples_by_label"].items()},
        # journals of the versions before have none
        few_levels=tuple(BadImage(**image) for image in tree.get("few_levels", ())),
        altered={what: (count, first) for what, (count, first) in tree.get("altered", {}).items()},
    )


def _remove(work: Path) -> None:
    """Remove the folder of a run, its lock last: whoever locks it after that starts from nothing."""
    lock = work / LOCK
    for file in work.iterdir():
        if file != lock:
            # a worker of a killed run may have removed it
            file.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
    with suppress(OSError):
        work.rmdir()
