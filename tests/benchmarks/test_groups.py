"""`bench groups`: pairs meet as often as theory says, and bytes are those of a cache that evicts nothing.

Planted bugs that fail here: a step of another size, a bias that forgets pairs of two groups, a cache of all
data where a machine reads a share.
"""

import math

import pytest

from turbomim.benchmarks.loader.groups import (
    SHUFFLES,
    BenchGroups,
    bias,
    count_meetings,
    likelihood,
    likely_ratios,
    traffic,
)
from turbomim.pipeline.stream.turns import Shuffle
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.commands.cli import call

# 16 shards of 16, steps of 32
SMALL = BenchGroups(samples=256, shards=16, window=2, batch=32, epochs=120)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_pairs_meet_as_often_as_theory_says(shuffle: Shuffle, groups: int) -> None:
    found, theory = count_meetings(SMALL, shuffle, groups), likely_ratios(SMALL, shuffle, groups)
    for ratio, likely in zip(found.ratios, theory, strict=True):
        # the mean of 1,920 pairs at least, each of about 15 meetings
        assert math.isnan(ratio) if math.isnan(likely) else ratio == pytest.approx(likely, abs=0.03)
    # chance has a variance of 1, and a bias adds its own: nearly, as pairs that are biased vary otherwise
    mean, spread = SMALL.epochs * likelihood(SMALL), bias(SMALL, theory, groups)
    assert found.chi_square - 1 == pytest.approx(mean * spread**2, rel=0.25, abs=0.05)


def test_bias_and_ratios_written_out() -> None:
    """Of 8 samples in 2 groups of 2 shards, 4 of 28 pairs are of a shard, 8 of a group, 16 of two groups."""
    tiny = BenchGroups(samples=8, shards=4, window=1, batch=4, groups=[2])
    equally = 3 / 7
    ratios = likely_ratios(tiny, "window", 2)
    # a window is a shard: its two samples are always in one step, and no step has two shards of a group
    assert ratios == pytest.approx((1 / equally, 0, 0.5 / equally))
    squares = [(4, 1 / equally), (8, 0), (16, 0.5 / equally)]
    assert bias(tiny, ratios, 2) == pytest.approx(
        math.sqrt(sum(count * (ratio - 1) ** 2 for count, ratio in squares) / 28)
    )
    assert bias(tiny, likely_ratios(tiny, "full", 1), 1) == pytest.approx(0)


def test_caches_that_evict_nothing() -> None:
    options = BenchGroups(machines=4, data_gb=100, cache_gb=20, passes=10)
    one, two, four, eight = (traffic(options, groups) for groups in (1, 2, 4, 8))
    assert (one.share, one.cached, one.fill_gb, one.epoch_gb) == (1, 0.2, 80, 80)
    assert (two.share, two.cached, two.fill_gb, two.epoch_gb) == (0.5, 0.4, 80, 60)
    assert (four.share, four.cached, four.fill_gb) == (0.25, 0.8, 80)
    assert four.epoch_gb == pytest.approx(20)
    assert eight == four
    # the second of three machines meets both groups
    assert traffic(BenchGroups(machines=3, data_gb=100, cache_gb=50), 2).cached == 0.5
    full = traffic(BenchGroups(machines=8, data_gb=148, cache_gb=20), 8)
    assert (full.cached, full.fill_gb, full.epoch_gb) == (1, 148, 0)


def test_the_command_prints_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    words = "--groups 1 2 --samples 64 --shards 8 --batch 8 --window 2 --epochs 4 --machines 2 --cache-gb 37"
    call(["bench", "groups", *words.split()])
    said = capsys.readouterr().out
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows if row[0] in ("| full", "| window")] == [
        ["| full", "1"], ["| full", "2"], ["| window", "1"], ["| window", "2"],
    ]  # fmt: skip
    assert "| 2 | 50.0 % | 50.0 % | 74 | 74.0 | 59.20 |" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--groups 3", "--groups = 3: must be divisors of --batch 64 and --shards 64"),
        ("--groups 0", "--groups = 0: must be divisors"),
        ("--samples 100", "--samples = 100: must be a multiple of --shards 64 and --batch 64"),
        ("--batch 1", "--batch = 1: must be at least 2"),
        ("--epochs 65536", "--epochs = 65536: must be 1 to 65,535"),
        ("--data-gb 0", "--data-gb = 0.0: must be above 0"),
        ("--cache-gb -1", "--cache-gb = -1.0: must be 0 or more"),
    ],
)
def test_what_cannot_be_is_one_line(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("-", r"\-")) as error:
        call(["bench", "groups", *words.split()])
    assert "\n" not in str(error.value)
