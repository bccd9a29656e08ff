"""What a run asks of an object store between two log lines."""

from dataclasses import dataclass, field
from typing import Any

from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.tars.shard_cache import CacheStats
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.log import Record, seconds_of
from turbomim.train.world.distributed import World


@dataclass(kw_only=True)
class StorageWindow:
    """The traffic of this process since the last log line; its mirror's is in it.

    counts: when it began, as `_now`; retries: by cause, when a line last said what was tried again.
    """

    split: Split
    world: World
    counts: list[int] = field(init=False)
    retries: dict[str, int] = field(default_factory=lambda: dict(TRAFFIC.retries))

    def __post_init__(self) -> None:
        self.counts = self._now()

    @property
    def remote(self) -> bool:
        """Whether the run's split lies in a store."""
        return self.split.tars.folder is None

    def retried(self) -> str:
        """What was tried again and why, in a line; "" if nothing was, or a line was just said."""
        causes = TRAFFIC.retries.copy()
        causes.subtract(self.retries)
        again = sorted((+causes).items(), key=lambda item: -item[1])
        if not again or not TRAFFIC.due():
            return ""
        self.retries = dict(TRAFFIC.retries)
        why = ", ".join(f"{count:,} x {cause}" for cause, count in again)
        total = sum(count for _, count in again)
        return f"storage: {total:,} tried again since the last such line ({why}), the last {TRAFFIC.last}"

    def record(self) -> dict[str, Any]:
        """The fields of a log record, of all ranks together, where the data is remote.  Every rank comes."""
        if not self.remote:
            return {}
        ranks = self.world.all_gather([b - a for a, b in zip(self.counts, self._now(), strict=True)])
        requests, size, retries, hits, misses = (int(sum(counts)) for counts in zip(*ranks, strict=True))
        found = {"storage_requests": requests, "storage_bytes": size, "storage_retries": retries}
        if self.split.cache is None:
            return found
        return found | {"cache_hit_pct": 100 * hits / (hits + misses) if hits + misses else None}

    def next(self) -> "StorageWindow":
        """The window after it."""
        return StorageWindow(split=self.split, world=self.world, retries=self.retries)

    def _now(self) -> list[int]:
        """Requests, bytes, retries, and samples read from the cache and not."""
        cache = CacheStats() if self.split.cache is None else self.split.cache.stats
        return [TRAFFIC.requests, TRAFFIC.bytes, TRAFFIC.retries.total(), cache.hits, cache.misses]


def storage_in_words(record: Record, split: Split) -> str:
    """What the store gave in the steps of a record, and what helps where they wait for it.

    "" where they do not: nothing was asked of it, or all shards are kept on a disk.
    """
    asked = record.get("storage_requests") or record.get("storage_retries")
    more = "--data.cache FOLDER --data.cache_gb N keeps shards on a local disk"
    if split.cache is not None:
        more = split.cache.remedy()
    if not more or not asked:
        return ""
    if record["storage_retries"] > record["storage_requests"]:
        more = "it failed, and lines about it say why"
    seconds = max(1e-9, seconds_of(record))
    rate = f"{record['storage_requests'] / seconds:,.0f} requests a second"
    size = f"{record['storage_bytes'] / seconds / 1e6:,.0f} MB/s"
    return f"{split.tars}: {rate}, {size}, {record['storage_retries']:,} tried again; {more}"
