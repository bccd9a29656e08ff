"""How long the steps wait for data, by the clock of whoever takes them.

The host runs ahead of a GPU: it may wait in the loader while the GPU still works, and that costs nothing.  So
on a GPU two events on torch's current stream measure the wait, one put there when the host asks for data, one
when it has it:

    host   ask, wait in the loader | launch step 2
    GPU    step 1      | idle      | decode, copy | step 2
                       first event                second event

The GPU passes the first when all earlier work is done, the second when the batch is ready.  Decoding and
copies on the GPU count.  Only the loader lies between the two, so log lines and checkpoints do not.
"""

# torch does not type its events
# mypy: allow-untyped-calls

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class DataWait:
    """Sums the waits for data on a device; on a CPU, the time that the host was blocked."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        # the events of waits that the GPU has not passed yet: as many as the host is steps ahead
        self._pairs: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """One wait: within it the loader is asked, and nothing else happens.  The host waits for no GPU."""
        if not self._on_gpu:
            begun = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - begun
            return
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        yield
        after.record()
        self._pairs.append((before, after))
        self._add_passed()

    def seconds(self) -> float:
        """Their sum up to now; waits for the GPU."""
        if self._pairs:
            self._pairs[-1][1].synchronize()
        self._add_passed()
        return self._seconds

    def _add_passed(self) -> None:
        while self._pairs and self._pairs[0][1].query():
            before, after = self._pairs.popleft()
            # it is in milliseconds
            self._seconds += before.elapsed_time(after) / 1000
