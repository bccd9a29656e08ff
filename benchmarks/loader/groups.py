"""What do groups save, and what do they cost in shuffling?  `turbomim bench groups`.

Two tables, from the orders that training uses and from arithmetic, so they depend on no machine:

1. How far from uniform pairs of samples meet in a step, over many epochs of a small split, for each number
   of groups and both shuffles.
2. Bytes that machines fetch from a store of which each caches a part.

Shape suffixes: N samples, E epochs.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from turbomim.benchmarks.tables import markdown_table
from turbomim.pipeline.stream.groups import groups_of
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, Shuffle, stream_order
from turbomim.pipeline.system.errors import need
from turbomim.train.settings.flags import parse

SHUFFLES: Final[tuple[Shuffle, ...]] = ("full", "window")


@dataclass(frozen=True, kw_only=True)
class BenchGroups:
    """Count which pairs of samples meet in a step, and the bytes that machines fetch, by data.groups."""

    groups: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    """Values of data.groups."""
    samples: int = 2048
    """Samples of the small split."""
    shards: int = 64
    """Shards that they are in, of equal size."""
    window: int = 4
    """Shards of a window, data.window."""
    batch: int = 64
    """Samples of a step over all ranks."""
    epochs: int = 128
    """Epochs over which meetings are counted."""
    machines: int = 8
    """Machines that train together."""
    data_gb: float = 148.0
    """Bytes of the shards in a store, GB; ImageNet-1k's photographs have 148."""
    cache_gb: float = 20.0
    """Bytes that each machine caches, data.cache_gb, GB."""
    passes: int = 800
    """Epochs of the run whose bytes are counted."""

    def __post_init__(self) -> None:
        for name in ("samples", "shards", "window", "machines", "passes"):
            need(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        need(1 <= self.epochs < 2**16, "--epochs", self.epochs, "1 to 65,535")
        need(self.batch >= 2, "--batch", self.batch, "at least 2: pairs meet in it")
        need(self.data_gb > 0, "--data-gb", self.data_gb, "above 0")
        need(self.cache_gb >= 0, "--cache-gb", self.cache_gb, "0 or more")
        legal = f"a multiple of --shards {self.shards} and --batch {self.batch}, and more than they are"
        fits = self.samples % self.shards == self.samples % self.batch == 0
        need(fits and self.samples > max(self.shards, self.batch), "--samples", self.samples, legal)
        for groups in self.groups:
            legal = f"divisors of --batch {self.batch} and --shards {self.shards}"
            fits = groups >= 1 and self.batch % groups == self.shards % groups == 0
            need(fits, "--groups", groups, legal)


# about ImageNet-1k's size, and MAE's batch
LARGE: Final = BenchGroups(samples=1024 * 1280, shards=1024, window=16, batch=4096)


class Ratios(NamedTuple):
    """How much likelier pairs meet than if all pairs were equally likely; 1 = as likely.

    Pairs of one shard, of two shards of a group, and of two groups.  NaN where there are no such pairs.
    """

    one_shard: float
    one_group: float
    apart: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Meetings:
    """How often pairs met.

    met: share of the pairs that met at least once; chi_square: of the counts, per pair, 1 if chance alone
    makes them differ; ratios: of the mean counts.
    """

    met: float
    chi_square: float
    ratios: Ratios


def likelihood(options: BenchGroups) -> float:
    """How likely a pair meets in an epoch, were all pairs equally likely."""
    return (options.batch - 1) / (options.samples - 1)


def steps_of_samples(options: BenchGroups, shuffle: Shuffle, groups: int) -> NDArray[np.int64]:
    """The step of its epoch in which each sample comes, (E, N)."""
    size = options.samples
    cut = BatchCut(global_batch=options.batch, micro_batch=options.batch)
    stream = SampleStream(seed=0, shuffle=shuffle, window=options.window, groups=groups, cut=cut)
    order = stream_order(stream, [size // options.shards] * options.shards)
    ids_EN = np.stack([order(np.arange(size) + epoch * size)[1] for epoch in range(options.epochs)])
    # a step holds the same positions before and after it is sorted by group
    return np.argsort(ids_EN, axis=1) // options.batch


def count_meetings(options: BenchGroups, shuffle: Shuffle, groups: int) -> Meetings:
    """Count how often each pair of the small split meets in a step."""
    size = options.samples
    counts_NN = np.zeros((size, size), np.uint16)
    # narrow numbers are compared and added several times faster
    for steps_N in steps_of_samples(options, shuffle, groups).astype(np.uint16):
        counts_NN += steps_N[:, None] == steps_N
    shards_N = np.arange(size) * options.shards // size
    groups_N = shards_N * groups // options.shards
    one_shard_NN, one_group_NN = shards_N[:, None] == shards_N, groups_N[:, None] == groups_N
    once_NN = np.tri(size, k=-1, dtype=bool)
    counts, likely = counts_NN[once_NN], likelihood(options)
    mean = options.epochs * likely

    def ratio(pairs_NN: NDArray[np.bool_]) -> float:
        pairs = counts_NN[once_NN & pairs_NN]
        return float(pairs.mean(dtype=np.float64) / mean) if len(pairs) else math.nan

    return Meetings(
        met=float((counts > 0).mean()),
        chi_square=float(((counts - np.float32(mean)) ** 2).mean(dtype=np.float64) / (mean * (1 - likely))),
        ratios=Ratios(ratio(one_shard_NN), ratio(one_group_NN & ~one_shard_NN), ratio(~one_group_NN)),
    )


def likely_ratios(options: BenchGroups, shuffle: Shuffle, groups: int) -> Ratios:
    """The ratios in theory: exact where steps divide windows, and windows groups."""
    equally = likelihood(options)
    own_batch, own_shards = options.batch / groups, options.shards // groups
    opened = own_shards if shuffle == "full" else min(options.window, own_shards)
    of_window = (own_batch - 1) / (opened * options.samples / options.shards - 1) / equally
    return Ratios(
        of_window,
        of_window * (opened - 1) / (own_shards - 1) if own_shards > 1 else math.nan,
        # each of two groups puts its sample into any step
        options.batch / options.samples / equally if groups > 1 else math.nan,
    )


def bias(options: BenchGroups, ratios: Ratios, groups: int) -> float:
    """Standard deviation of the ratio over all pairs."""
    size = options.samples
    of_shards, of_groups = (count * math.comb(size // count, 2) for count in (options.shards, groups))
    pairs = (of_shards, of_groups - of_shards, math.comb(size, 2) - of_groups)
    squares = (count * (ratio - 1) ** 2 for count, ratio in zip(pairs, ratios, strict=True) if count)
    return math.sqrt(sum(squares) / math.comb(size, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What machines fetch of a store.

    share: of the data that a machine reads; cached: share of that in its cache, of the machine with the
    least; fill_gb: bytes of all caches, fetched once; epoch_gb: bytes that all machines together fetch in
    each epoch after that.
    """

    share: float
    cached: float
    fill_gb: float
    epoch_gb: float


def traffic(options: BenchGroups, groups: int) -> Traffic:
    """The arithmetic of caches that keep what fits and evict nothing.

    A machine takes 1 / machines of each epoch's samples, out of what its groups hold; the cached share of
    that is not fetched again.
    """
    machines = range(options.machines)
    shares = [len(groups_of(machine, options.machines, groups)) / groups for machine in machines]
    held_gb = [min(options.cache_gb, share * options.data_gb) for share in shares]
    cached = [held / (share * options.data_gb) for held, share in zip(held_gb, shares, strict=True)]
    return Traffic(
        share=max(shares),
        cached=min(cached),
        fill_gb=sum(held_gb),
        epoch_gb=options.data_gb * sum(1 - part for part in cached) / options.machines,
    )


def meetings_table(options: BenchGroups) -> str:
    """Pairs that meet, one row a shuffle and number of groups; in brackets what theory says."""
    head = ["shuffle", "groups", "one shard", "one group", "apart", "met", "chi-square", "bias", "of 1.3 M"]
    rows = [head]
    for shuffle in SHUFFLES:
        for groups in options.groups:
            found = count_meetings(options, shuffle, groups)
            theory = likely_ratios(options, shuffle, groups)
            large = bias(LARGE, likely_ratios(LARGE, shuffle, groups), groups)
            rows.append(
                [
                    shuffle,
                    str(groups),
                    *(
                        "" if math.isnan(ratio) else f"{ratio:.3f} ({likely:.3f})"
                        for ratio, likely in zip(found.ratios, theory, strict=True)
                    ),
                    f"{100 * found.met:.2f} %",
                    f"{found.chi_square:.3f}",
                    f"{100 * bias(options, theory, groups):.1f} %",
                    f"{100 * large:.2f} %",
                ]
            )
    return markdown_table(rows, words=1)


def traffic_table(options: BenchGroups) -> str:
    """Bytes that are fetched, one row a number of groups."""
    rows = [["groups", "a machine reads", "of that cached", "fill, GB", "an epoch, GB", "the run, TB"]]
    for groups in options.groups:
        found = traffic(options, groups)
        run_tb = (found.fill_gb + (options.passes - 1) * found.epoch_gb) / 1000
        row = [f"{100 * found.share:.1f} %", f"{100 * found.cached:.1f} %", f"{found.fill_gb:,.0f}"]
        rows.append([str(groups), *row, f"{found.epoch_gb:,.1f}", f"{run_tb:,.2f}"])
    return markdown_table(rows, words=0)


def about_meetings(options: BenchGroups) -> str:
    """What the first table is about."""
    likely = likelihood(options)
    return (
        f"{options.samples:,} samples in {options.shards} shards, steps of {options.batch}, windows of "
        f"{options.window} shards, {options.epochs} epochs. Were all pairs equally likely, each would meet "
        f"{options.epochs * likely:.2f} times, {100 * (1 - (1 - likely) ** options.epochs):.2f} % would have "
        "met, and chi-square would be 1 a pair. One shard, one group, apart: how much likelier such pairs "
        "meet (in theory). Bias: the standard deviation of that over all pairs, in theory; and the same of "
        f"{LARGE.samples:,} samples in {LARGE.shards:,} shards, steps of {LARGE.batch:,}, windows of "
        f"{LARGE.window} shards."
    )


def about_traffic(options: BenchGroups) -> str:
    """What the second table is about."""
    return (
        f"{options.machines} machines, {options.data_gb:g} GB of shards, {options.cache_gb:g} GB of cache "
        f"each, {options.passes} epochs. While caches fill, what is not there yet is streamed besides: "
        f"{options.data_gb:g} GB more at most."
    )


def bench_groups_command(argv: list[str]) -> None:
    """`turbomim bench groups`: two tables.  Raises UserError."""
    options = parse(BenchGroups, argv, "turbomim bench groups")
    print(f"{meetings_table(options)}\n\n{about_meetings(options)}\n")
    print(f"{traffic_table(options)}\n\n{about_traffic(options)}")


if __name__ == "__main__":
    bench_groups_command(sys.argv[1:])
