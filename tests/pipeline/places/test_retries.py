"""Requests made again: when, for how long, how often, and what is said and counted.

Planted, each seen to fail: waits that do not grow; a limit that is not kept; a final refusal tried again; a
halt that waits; a line a failure, or a rank in ten seconds; a line that an impatient request uses up in
silence; a count by texts that differ in their numbers.
"""

import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from turbomim.pipeline.places import retries
from turbomim.pipeline.places.retries import (
    FIRST_WAIT,
    LIMIT,
    LIMIT_NEW,
    LONGEST_WAIT,
    Traffic,
    impatient,
    persistently,
)
from turbomim.pipeline.system.remedies import PlaceError


class Clock(threading.Event):
    """Time that passes in waits alone, and a halt that nobody sets before `halt_at`."""

    def __init__(self, halt_at: float = float("inf")) -> None:
        super().__init__()
        self.now, self.waits, self.halt_at = 0.0, [0.0] * 0, halt_at

    def wait(self, timeout: float | None = None) -> bool:
        """Let time pass."""
        assert timeout is not None
        self.waits.append(timeout)
        self.now += timeout
        return self.now >= self.halt_at


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """The counts of this test alone."""
    traffic = Traffic()
    traffic.tell = lambda line: None
    monkeypatch.setattr(retries, "TRAFFIC", traffic)
    return traffic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return clock


def failing(times: float, *, passing: bool = True) -> Callable[[], str]:
    """A request that is answered after so many failures."""
    done = 0

    def request() -> str:
        nonlocal done
        done += 1
        if done <= times:
            raise PlaceError(f"an answer of another length came ({done} bytes)", passing=passing)
        return "answer"

    return request


def test_waits_double_up_to_a_limit(traffic: Traffic, clock: Clock) -> None:
    lines: list[str] = []
    with traffic.telling(lines.append):
        assert persistently(failing(12), "x", answered=True, halt=clock) == "answer"
    assert traffic.last == "x"
    assert clock.waits[0] == FIRST_WAIT and clock.waits[-1] == LONGEST_WAIT
    assert all(later == min(2 * wait, LONGEST_WAIT) for wait, later in pairwise(clock.waits))
    assert traffic.retries == {"an answer of another length came": 12}
    # one line in ten seconds, that names the request
    assert lines[0] == "x: an answer of another length came (1 bytes), 0.0 s so far; tried again"
    assert len(lines) == pytest.approx(clock.now / retries.QUIET, abs=2)


def test_one_line_of_all_who_tell_of_storage(traffic: Traffic, clock: Clock) -> None:
    """In ten seconds, or as many times that as there are ranks; who says nothing leaves it to others."""
    lines: list[str] = []
    for ranks in (1, 4):
        clock.now += 1000
        with traffic.telling(lines.append, ranks):
            with impatient(1000):
                persistently(failing(3), "x", answered=True, halt=clock)
            assert lines == [] and traffic.due() and not traffic.due()
            clock.now += ranks * retries.QUIET - 1
            assert not traffic.due()
            clock.now += 2
            assert not traffic.due(1.5), "of who says less"
            persistently(failing(1), "x", answered=True, halt=clock)
            assert len(lines) == 1 and not traffic.due()
            lines.clear()


@pytest.mark.parametrize(("answered", "limit"), [(True, LIMIT), (False, LIMIT_NEW)])
def test_it_ends_after_the_limit(traffic: Traffic, clock: Clock, answered: bool, limit: float) -> None:
    with pytest.raises(PlaceError, match=r"\(tried for \d+ s\)$"):
        persistently(failing(1e9), "x", answered=answered, halt=clock)
    assert limit - LONGEST_WAIT <= clock.now <= limit


def test_what_no_retry_can_help_is_raised_at_once(traffic: Traffic, clock: Clock) -> None:
    with pytest.raises(PlaceError, match=r"came \(1 bytes\)$"):
        persistently(failing(1, passing=False), "x", answered=True, halt=clock)
    assert not clock.waits and not traffic.retries


def test_a_halt_ends_the_wait(traffic: Traffic, clock: Clock) -> None:
    clock.halt_at = 1.0
    with pytest.raises(PlaceError):
        persistently(failing(1e9), "x", answered=True, halt=clock)
    assert clock.now < 1.0 + 2 * FIRST_WAIT * 8


def test_other_errors_are_not_ours() -> None:
    def request() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        persistently(request, "x", answered=True)


def test_waits_are_random(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that failed together do not come back together."""
    waits: set[float] = set()
    for _ in range(5):
        clock = Clock()
        persistently(failing(1), "x", answered=True, halt=clock)
        assert FIRST_WAIT / 2 <= clock.waits[0] <= FIRST_WAIT
        waits.add(clock.waits[0])
    assert len(waits) > 1
