"""The wait for data by a GPU's own clock: what the host waits while the GPU works is none.

Planted on the CPU, in tests/train/loop/test_data_wait.py, where a GPU's queue is played.
"""

# torch does not type its streams
# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from tests.gpu.waits import nobody_waits

from turbomim.train.loop.data_wait import DataWait

STEPS = 8
# seconds that a batch takes to come
LOAD = 0.05

Work = Callable[[float], None]


@pytest.fixture
def work(device: torch.device) -> Work:
    """Gives the device so many seconds to do, and on a GPU does not wait for it."""
    if device.type == "cpu":
        return time.sleep
    # the first launch takes longer
    torch.cuda._sleep(1000)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    cycles = 50_000_000
    before.record()
    torch.cuda._sleep(cycles)
    after.record()
    torch.cuda.synchronize()
    a_second = 1000 * cycles / before.elapsed_time(after)
    return lambda seconds: torch.cuda._sleep(int(seconds * a_second))


def slow_steps(wait: DataWait, work: Work, seconds: float) -> float:
    """Seconds of waiting in steps that take the device so long, after a first one that waits in any case."""
    with wait.measured():
        time.sleep(LOAD)
    work(seconds)
    first = wait.seconds()
    for _ in range(STEPS):
        with wait.measured():
            time.sleep(LOAD)
        work(seconds)
    return wait.seconds() - first


def test_a_gpu_that_is_busy_waits_for_nothing(device: torch.device, work: Work) -> None:
    if device.type == "cpu":
        pytest.skip("on a CPU it is the host that works, and so waits")
    assert slow_steps(DataWait(device), work, 3 * LOAD) < 0.2 * STEPS * LOAD


def test_a_gpu_that_is_idle_waits_as_long_as_the_loader_takes(device: torch.device, work: Work) -> None:
    waited = slow_steps(DataWait(device), work, 0.1 * LOAD)
    # its own work goes on for a part of each wait
    least = 0.85 if device.type == "cuda" else 1.0
    assert least * STEPS * LOAD < waited < 2 * STEPS * LOAD


def test_what_another_stream_does_to_a_batch_counts(device: torch.device, work: Work) -> None:
    """The host goes on at once; the step's stream waits."""
    if device.type == "cpu":
        pytest.skip("a CPU has no streams")
    wait, decoder = DataWait(device), torch.cuda.Stream()
    begun = time.perf_counter()
    for _ in range(STEPS):
        with wait.measured():
            decoder.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(decoder):
                work(LOAD)
            torch.cuda.current_stream().wait_stream(decoder)
        work(0.1 * LOAD)
    assert time.perf_counter() - begun < 0.5 * STEPS * LOAD, "the host waited"
    assert 0.9 * STEPS * LOAD < wait.seconds() < 1.5 * STEPS * LOAD


def test_measuring_makes_nobody_wait(device: torch.device, work: Work) -> None:
    """Nor does a long window keep its events."""
    wait = DataWait(device)
    with nobody_waits(device):
        for _ in range(300):
            with wait.measured():
                pass
            work(1e-5)
    assert 0 <= wait.seconds() < 0.5
    assert not wait._pairs
