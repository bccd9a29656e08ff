"""Trackers are fed beside the steps, each by a thread of its own: none can stop, slow or hold up a run.

What a tracker does not take waits, in order, and is sent when the tracker works again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from turbomim.pipeline.system.errors import one_line_with_class
from turbomim.pipeline.system.words import counted
from turbomim.train.trackers.tracker import Tracker

# seconds after which a tracker that failed is tried again; seconds that a run's end waits for all of them
AGAIN, PATIENCE = 30.0, 10.0

# the numbers of a step, or its picture
Shown = Mapping[str, float] | Path


class Feed:
    """Feeds one tracker.  name: it, for people; connect: opens it; tell: hears what people must know."""

    def __init__(self, name: str, connect: Callable[[], Tracker], tell: Callable[[str], None]) -> None:
        self._name, self._connect, self._tell = name, connect, tell
        self._waiting: deque[tuple[int, Shown]] = deque()
        self._changed = threading.Condition()
        # whether the run is over, and by an error; whether nobody waits for this thread any more
        self._ended, self._failed, self._left = False, False, False
        self._thread = threading.Thread(target=self._feed, name=name, daemon=True)
        self._thread.start()

    def put(self, step: int, shown: Shown) -> None:
        """Leave something to be sent; returns at once."""
        with self._changed:
            self._waiting.append((step, shown))
            self._changed.notify()

    def end(self, *, failed: bool) -> None:
        """Say that the run is over.  `wait` then waits until all is sent."""
        with self._changed:
            self._ended, self._failed = True, failed
            self._changed.notify()

    def wait(self, until: float) -> None:
        """Wait until all is sent and the tracker closed, or the monotonic clock shows `until`."""
        self._thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            self._left, late, missing = True, self._thread.is_alive(), len(self._waiting)
        if missing:
            why = ": no answer yet" if late else ""
            self._tell(f"{self._name}: {counted(missing, 'record')} not sent{why}; metrics.jsonl has all")
        elif late:
            self._tell(f"{self._name}: did not end within {PATIENCE:.0f} s; nobody waits for it any more")

    def _feed(self) -> None:
        tracker: Tracker | None = None
        broken = False
        while True:
            try:
                tracker = tracker or self._connect()
                self._send(tracker)
                if broken:
                    broken = False
                    self._say("works again, and has everything")
                if self._is_over():
                    break
            except Exception as error:
                if not broken:
                    self._say(f"{one_line_with_class(error)}; the run goes on, and what is not sent waits")
                broken = True
                with self._changed:
                    if self._ended:
                        break
                    self._changed.wait_for(lambda: self._ended, AGAIN)
        self._close(tracker)

    def _send(self, tracker: Tracker) -> None:
        """Send all that waits."""
        while self._waiting:
            step, shown = self._waiting[0]
            if isinstance(shown, Path):
                # it is not tried again: it may itself be what the tracker does not take
                self._waiting.popleft()
                if step > tracker.last_step:
                    tracker.picture(step, shown)
                continue
            if step > tracker.last_step:
                tracker.scalars(step, shown)
            self._waiting.popleft()

    def _is_over(self) -> bool:
        """Wait for more to send, or for the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            return not self._waiting

    def _close(self, tracker: Tracker | None) -> None:
        if tracker is not None:
            try:
                tracker.close(failed=self._failed)
            except Exception as error:
                self._say(f"{one_line_with_class(error)}, at its end")

    def _say(self, text: str) -> None:
        with self._changed:
            left = self._left
        if not left:
            self._tell(f"{self._name}: {text}")
