"""A training step in a process of its own: nothing that a library does to memory is shared."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch

from turbomim.benchmarks.step.forms import FORMS, OneStep, Task
from turbomim.pipeline.system.closing import Closing

# steps whose losses are compared, and the seconds that they may take: imports and compilation are in them
CHECKED: Final = 3
START_S: Final = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One measurement: seconds of a step, its CPU seconds in all threads, and the most memory, bytes.

    Memory: on a GPU what torch gave out, on a CPU all that the process holds.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int


class FormProcess(Closing):
    """A form that waits for its turns.  Use as a context manager: it ends the process."""

    def __init__(self, name: str, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, name, task), daemon=True)
        self._process.start()
        theirs.close()

    def close(self) -> None:
        """End the process."""
        # it ends by itself when nobody listens, unless it hangs
        self._pipe.close()
        self._process.join(5)
        self._process.kill()
        self._process.join()

    def losses(self) -> list[float]:
        """Of the first steps, from the given weights on.  Raises RuntimeError: why there are none."""
        losses: list[float] = self._answer(START_S)
        return losses

    def turn(self, seconds: float) -> Turn:
        """Step for about `seconds`, at least once.  Raises RuntimeError."""
        self._pipe.send(seconds)
        turn: Turn = self._answer(60 + 20 * seconds)
        return turn

    def _answer(self, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            raise RuntimeError(f"no answer after {seconds:.0f} s")
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"its process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def serve(pipe: Connection, name: str, task: Task) -> None:
    """Make a form, send its first losses, then a Turn for every number of seconds received."""
    try:
        step = FORMS[name](task)
        losses = [float(step()) for _ in range(CHECKED)]
        if task.device == "cuda":
            # the other forms need it
            torch.cuda.empty_cache()
        pipe.send(losses)
        # the parent goes away without a word
        with suppress(EOFError):
            while True:
                pipe.send(measure(step, pipe.recv(), task.device))
    except Exception as error:
        # it crosses to the parent, which says it
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        pipe.send(f"{type(error).__name__}: {first}")


def measure(step: OneStep, seconds: float, device: str) -> Turn:
    """Time steps, after one that brings memory and caches back from another process's turn."""
    wait: Callable[[], object] = torch.cuda.synchronize if device == "cuda" else lambda: None
    _forget_peak(device)
    begun = time.perf_counter()
    step()
    wait()
    calls = max(1, math.ceil(seconds / (time.perf_counter() - begun)))
    begun, cpu_begun = time.perf_counter(), time.process_time()
    for _ in range(calls):
        step()
    wait()
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    turn = Turn(seconds=seconds / calls, cpu_seconds=cpu_seconds / calls, peak_bytes=_peak(device))
    if device == "cuda":
        # the other forms need it
        torch.cuda.empty_cache()
    return turn


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        # Linux: the highest resident size begins anew
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    words = Path("/proc/self/status").read_text(encoding="ascii").split()
    return 1024 * int(words[words.index("VmHWM:") + 1])
