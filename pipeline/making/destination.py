"""Where shards are made: what `make_shards` asks of a folder, or of a place in a store of objects."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from turbomim.pipeline.making.shard_job import ShardResult
from turbomim.pipeline.places.place import Place


class Destination(ABC):
    """A place for one split, and `.making` in it: what a run that is not at its end has done.

    where: what jobs write to, an absolute path or a URL; mark: of the run, "" where none is needed.  Between
    `held` and its end no other process makes shards there.  Every method raises UserError.
    """

    place: Place
    where: str
    mark: str = ""

    @abstractmethod
    def check(self, source: str) -> None:
        """Check that shards of a source can be made there: it is new, empty, or of an earlier run."""

    @abstractmethod
    def is_finished(self, *, held: bool = False) -> bool:
        """Whether the split is whole; unless it is held, an earlier run may also have to clean up."""

    @abstractmethod
    def held(self, *, lock: bool) -> AbstractContextManager[None]:
        """Keep other processes out, and clean up at the end; after an error what is finished stays."""

    @abstractmethod
    def agree_on_plan(self, plan: dict[str, Any]) -> None:
        """Record the plan of a new run; raise UserError if an earlier run had another."""

    @abstractmethod
    def results(self) -> dict[int, ShardResult]:
        """Give the result of each finished job whose shard is whole, by the job's number."""

    @abstractmethod
    def check_space(self, needed: int) -> None:
        """Check that so many bytes can be written."""

    @abstractmethod
    def recording(self, kept: dict[int, ShardResult]) -> AbstractContextManager[None]:
        """Open the journal for `record`, with the results to keep in it already."""

    @abstractmethod
    def record(self, result: ShardResult) -> None:
        """Note durably that a job has ended, and that its shard is whole."""

    @abstractmethod
    def publish(self, shards: dict[str, str], listings: dict[str, bytes]) -> None:
        """Give shards and index files their final names, and write the listings, the last one last.

        shards: final names of files, by the names that jobs gave, in order.  A call that was killed is
        finished by the next run's.
        """


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say in what the first plan differs from the second; "" for nothing."""
    for key in new:
        if old.get(key) != new[key]:
            words = key.replace("_", " ")
            if key.endswith("sha256"):
                return f"another {words.removesuffix(' sha256')}"
            return f"another {words} ({old.get(key)!r}, now {new[key]!r})"
    return ""
