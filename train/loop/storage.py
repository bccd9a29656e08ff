"""What a run asks of an object store between two log lines."""

from dataclasses import dataclass, field
from typing import Any

from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.log import Record, seconds_of
from turbomim.train.world.distributed import World


@dataclass(kw_only=True)
class StorageWindow:
    """The traffic of this process since the last log line; its mirror's is in it."""

    split: Split
    world: World
    requests: int = field(default_factory=lambda: TRAFFIC.requests)
    bytes: int = field(default_factory=lambda: TRAFFIC.bytes)
    retries: dict[str, int] = field(default_factory=lambda: dict(TRAFFIC.retries))

    @property
    def remote(self) -> bool:
        """Whether the run's split lies in a store."""
        return self.split.tars.folder is None

    def retried(self) -> str:
        """What was tried again and why, in a line; "" if nothing was."""
        causes = TRAFFIC.retries.copy()
        causes.subtract(self.retries)
        again = sorted((+causes).items(), key=lambda item: -item[1])
        if not again:
            return ""
        why = ", ".join(f"{count:,} x {cause}" for cause, count in again)
        total = sum(count for _, count in again)
        return f"storage: {total:,} tried again since the last log line ({why}), the last {TRAFFIC.last}"

    def record(self) -> dict[str, Any]:
        """The fields of a log record, of all ranks together, where the data is remote.  Every rank comes."""
        if not self.remote:
            return {}
        tried_again = TRAFFIC.retries.total() - sum(self.retries.values())
        ranks = self.world.all_gather(
            [TRAFFIC.requests - self.requests, TRAFFIC.bytes - self.bytes, tried_again]
        )
        requests, size, retries = (int(sum(counts)) for counts in zip(*ranks, strict=True))
        return {"storage_requests": requests, "storage_bytes": size, "storage_retries": retries}

    def next(self) -> "StorageWindow":
        """The window after it."""
        return StorageWindow(split=self.split, world=self.world)


def storage_in_words(record: Record, split: Split, *, cached: bool) -> str:
    """What the store gave in the steps of a record, and what helps where they wait for it."""
    seconds = max(1e-9, seconds_of(record))
    rate = f"{record['storage_requests'] / seconds:,.0f} requests a second"
    size = f"{record['storage_bytes'] / seconds / 1e6:,.0f} MB/s"
    more = "a larger --data.cache_gb keeps more" if cached else "--data.cache FOLDER --data.cache_gb N keeps"
    again = f"{record['storage_retries']:,} tried again"
    return f"{split.tars}: {rate}, {size}, {again}; {more} shards on a local disk"
