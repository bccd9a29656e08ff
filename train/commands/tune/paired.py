"""Comparing two noisy rates: measured in turn, and judged round by round."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

# a change is kept only for a rate this much higher: less may be noise
GAIN = 1.03
# rounds of a comparison, fewer where the winner of most is known before
ROUNDS = 5


def paired(measure: Callable[[T], float], base: T, other: T) -> list[tuple[float, float]]:
    """Rates of both, round by round.  Who goes first alternates, so that a drift favours neither."""
    rounds: list[tuple[float, float]] = []
    while len(rounds) < ROUNDS and not _is_decided(rounds):
        if len(rounds) % 2:
            theirs = measure(other)
            rounds.append((measure(base), theirs))
        else:
            rounds.append((measure(base), measure(other)))
    return rounds


def wins(rounds: Sequence[tuple[float, float]]) -> bool:
    """Whether the second is GAIN times as fast as the first in most rounds."""
    return 2 * _won(rounds) > len(rounds)


def is_faster(measure: Callable[[T], float], rates: Mapping[T, float], best: T, candidate: T) -> bool:
    """Whether a candidate was GAIN times as fast when it was first measured, and is in most of new rounds.

    rates: of each, by its first measurement; the highest of many is too high by luck, hence the rounds.
    """
    return rates[candidate] > GAIN * rates[best] and wins(paired(measure, best, candidate))


def _won(rounds: Sequence[tuple[float, float]]) -> int:
    return sum(theirs > GAIN * ours for ours, theirs in rounds)


def _is_decided(rounds: Sequence[tuple[float, float]]) -> bool:
    """Whether one of the two has most of ROUNDS rounds already."""
    won = _won(rounds)
    return 2 * max(won, len(rounds) - won) > ROUNDS
