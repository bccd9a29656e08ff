"""Smaller images first: the side of the training images over a run, as a pure function of the step."""

import functools
import math
import re
from dataclasses import dataclass
from fractions import Fraction

from turbomim.pipeline.system.errors import need

# a graph is compiled for each, and torch compiles a function for 8 kinds of arguments at most: a block of
# the encoder and one of the decoder, four sizes each
MOST = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Steps of a run, counted from 0, and the side of their images in pixels."""

    size: int
    steps: range


@functools.cache
def smaller_sizes(sizes: str, size: int) -> tuple[tuple[int, Fraction], ...]:
    """(side in pixels, share of the run's steps) of each stage of `data.sizes` before that of `data.size`.

    "16:0.4,24:0.3" with a size of 32 is 16 for 2/5 of the steps, then 24 for 3/10.  Raises UsageError.
    """
    if not sizes:
        return ()
    legal = "empty, or sides with their shares of the run like 16:0.4,24:0.3"
    ok = re.fullmatch(r"[1-9]\d{0,4}:0?\.\d{1,9}(,[1-9]\d{0,4}:0?\.\d{1,9})*", sizes) is not None
    need(ok, "data.sizes", repr(sizes), legal)
    pairs = [part.split(":") for part in sizes.split(",")]
    found = tuple((int(side), Fraction(share)) for side, share in pairs)
    sides, shares = [side for side, _ in found], [share for _, share in found]
    need(len(found) <= MOST, "data.sizes", repr(sizes), f"at most {MOST} sides")
    rising = sides == sorted(set(sides)) and sides[-1] < size
    need(rising, "data.sizes", repr(sizes), f"rising sides below data.size ({size})")
    legal = "shares above 0 whose sum is below 1: the last steps are of data.size"
    need(min(shares) > 0 and sum(shares) < 1, "data.sizes", repr(sizes), legal)
    return found


def stages(sizes: str, size: int, steps: int) -> list[Stage]:
    """The stages of a run of so many steps, the last of full size; those too short for a step are left out.

    A stage ends with the last whole step of the shares up to it.
    """
    smaller = smaller_sizes(sizes, size)
    shares = [share for _, share in smaller]
    ends = [math.floor(sum(shares[: number + 1]) * steps) for number in range(len(shares))]
    sides = [*(side for side, _ in smaller), size]
    parts = zip(sides, [0, *ends], [*ends, steps], strict=True)
    return [Stage(size=side, steps=range(first, end)) for side, first, end in parts if first < end]


def stage_of(step: int, stages: list[Stage]) -> Stage:
    """The stage of a step; the last one from the end of the run on."""
    return next((stage for stage in stages if step in stage.steps), stages[-1])


def in_words(stages: list[Stage]) -> str:
    """`images of 16 pixels in steps 1 to 40, of 24 to step 70, of 32 to step 100`."""
    first, *later = stages
    words = [f"images of {first.size} pixels in steps 1 to {first.steps.stop:,}"]
    return ", ".join([*words, *(f"of {stage.size} to step {stage.steps.stop:,}" for stage in later)])
