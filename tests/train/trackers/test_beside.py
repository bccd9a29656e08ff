"""A tracker that fails, hangs, and works again; no run is held up.

Planted bugs, and the test that each makes fail:
- what failed is forgotten, or sent twice: `test_what_is_not_taken_is_sent_when_it_works_again`;
- a picture that is not taken blocks all after it: `test_a_picture_that_is_not_taken_is_passed_over`;
- the end waits for ever: `test_one_that_hangs_is_left`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from turbomim.train.trackers import beside
from turbomim.train.trackers.beside import Feed


class Doubtful:
    """Takes nothing while `down` is set, and no pictures."""

    def __init__(self, last_step: int = 0) -> None:
        self.last_step, self.down, self.steps = last_step, threading.Event(), list[int]()
        self.asked, self.closed = threading.Event(), list[bool]()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.asked.set()
        if self.down.is_set():
            raise ConnectionError("http://me:S3CRET@host is down")
        self.steps.append(step)

    def picture(self, step: int, path: Path) -> None:
        raise ValueError("no pictures\nhere")

    def close(self, *, failed: bool) -> None:
        self.closed.append(failed)


def end(feed: Feed, seconds: float = 60, failed: bool = False) -> None:
    feed.end(failed=failed)
    feed.wait(time.monotonic() + seconds)


def test_what_is_not_taken_is_sent_when_it_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "AGAIN", 0.01)
    tracker, said = Doubtful(last_step=2), list[str]()
    tracker.down.set()
    feed = Feed("run.x", lambda: tracker, said.append)
    for step in range(1, 6):
        feed.put(step, {"loss": 1.0})
    assert tracker.asked.wait(60)
    tracker.down.clear()
    while "run.x: works again, and has everything" not in said:
        time.sleep(0.001)
    end(feed, failed=True)
    assert tracker.steps == [3, 4, 5], "it has the first two already"
    assert (
        said[0] == "run.x: ConnectionError: http://host is down; the run goes on, and what is not sent waits"
    )
    assert len(said) == 2 and tracker.closed == [True]


def test_a_picture_that_is_not_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "AGAIN", 0.01)
    tracker, said = Doubtful(), list[str]()
    feed = Feed("run.x", lambda: tracker, said.append)
    feed.put(1, Path("a.png"))
    feed.put(1, {"loss": 1.0})
    while not tracker.steps:
        time.sleep(0.001)
    end(feed)
    assert said[0].startswith("run.x: ValueError: no pictures here;") and tracker.closed == [False]


def test_one_that_hangs_is_left() -> None:
    held, said = threading.Event(), list[str]()

    def connect() -> Doubtful:
        held.wait(60)
        return Doubtful()

    feed = Feed("run.x", connect, said.append)
    feed.put(1, {"loss": 1.0})
    begun = time.monotonic()
    end(feed, seconds=0.1)
    assert time.monotonic() - begun < 30 and said == [
        "run.x: 1 record not sent: no answer yet; metrics.jsonl has all"
    ]
    held.set()
    feed.wait(time.monotonic() + 60)
    assert len(said) == 1, "nobody hears of it any more"
