"""What a machine reads of a split: the shards of its groups, and those that it keeps on its own disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from turbomim.pipeline.stream.groups import groups_of, shards_of, share_of
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.fill_cache import CacheFiller
from turbomim.pipeline.tars.shard_cache import ShardCache
from turbomim.pipeline.tars.split import Split
from turbomim.train.settings.config import DataConfig
from turbomim.train.world.distributed import World


def check_groups(groups: int, split: Split, flag: str) -> None:
    """Raise UserError if there are more groups than shards that a group could have to itself."""
    shards = sum(shard.samples > 0 for shard in split.manifest.shards)
    if groups > shards:
        raise UserError(
            f"data.groups = {groups} is more than the {counted(shards, 'shard')} of {flag} {split.place}: "
            f"use {shards} at most, or make smaller shards"
        )


def shards_of_groups(own: range, groups: int, split: Split) -> range:
    """The numbers of the shards that some groups of all read."""
    shard_samples = [shard.samples for shard in split.manifest.shards]
    shares = [share_of(group, groups, sum(shard_samples)) for group in own]
    return shards_of(range(shares[0].start, shares[-1].stop), shard_samples)


def with_cache(data: DataConfig, split: Split, world: World) -> Split:
    """The split with the cache of the settings, if there is one, for what the ranks of this machine read.

    Raises UserError as ShardCache does.
    """
    if not data.cache:
        return split
    # ranks are numbered machine by machine
    machine, machines = world.rank // world.local_size, max(1, world.size // world.local_size)
    wanted = shards_of_groups(groups_of(machine, machines, data.groups), data.groups, split)
    cache = ShardCache(
        Path(data.cache),
        int(data.cache_gb * 1e9),
        place=split.tars,
        manifest=split.manifest,
        versions=split.versions,
        wanted=wanted,
    )
    return replace(split, cache=cache)


@contextmanager
def filling(split: Split, notify: Callable[[str], None]) -> Iterator[None]:
    """Fill the cache of a split, if it has one, as long as this is open; its files are closed then."""
    if split.cache is None:
        yield
        return
    with split.cache, CacheFiller(split.cache, notify=notify):
        yield


def about_groups(groups: int, split: Split, ranks: int) -> list[str]:
    """What each rank reads of a split in groups, a line for ranks that read the same; none for one group."""
    if groups == 1:
        return []
    count = len(split.manifest.shards)
    met = [groups_of(rank, ranks, groups) for rank in range(ranks)]
    lines = []
    for own in dict.fromkeys(met):
        shards = shards_of_groups(own, groups, split)
        who = _span("rank", range(met.index(own), met.index(own) + met.count(own)))
        lines.append(
            f"{who}: {_span('group', own)} of {groups}, {_span('shard', shards)} of {count:,} "
            f"({100 * len(shards) / count:.1f} %)"
        )
    return lines


def _span(thing: str, numbers: range) -> str:
    """`rank 3`, `ranks 0 to 3`."""
    first, last = numbers[0], numbers[-1]
    return f"{thing} {first:,}" if first == last else f"{thing}s {first:,} to {last:,}"
