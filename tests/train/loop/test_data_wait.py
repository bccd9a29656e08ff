"""The wait for data by a GPU's clock, played without one, and what a run says of a long one.

Planted, each seen to fail the test named: the host's clock on a GPU (`test_a_busy_gpu_waits_for_nothing`);
the first event at the end of the step (`test_only_the_loader_s_time_counts`); the second event before the
batch is on the stream (`test_what_the_gpu_does_to_a_batch_counts`); waits read at each step
(`test_the_host_never_waits_between_log_lines`); pairs kept until the log line (`test_few_events_are_kept`);
the last wait not waited for (`test_what_the_gpu_does_to_a_batch_counts`); milliseconds taken for seconds
(`test_a_gpu_that_starves`); one sum for all windows (`test_a_window_reports_its_own_device_s_wait`); the
host's longest wait taken for the steps', a GPU's own part named reading (`test_the_slow_stage_of_a_gpu`); the
cores of the machine taken for a rank's (`test_the_slow_stage_has_a_remedy`).
"""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import config_for, quiet
from tests.train.loop.test_data import stored

from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.tars.split import Split
from turbomim.train.loop import data, log_window
from turbomim.train.loop.data import LINES_BETWEEN_HINTS, slow_stage
from turbomim.train.loop.data_wait import DataWait
from turbomim.train.loop.log_window import LogWindow
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import Plan
from turbomim.train.world.distributed import World

GPU = torch.device("cuda")
ALONE = World(device=torch.device("cpu"))


class Clock:
    """A host's clock, and a GPU that does what it is asked for in order: seconds since the start."""

    def __init__(self) -> None:
        # now; when the GPU has done all that it was asked for
        self.now = self.done = 0.0
        self.synchronised = 0

    def host(self, seconds: float) -> None:
        """The host is busy, or blocked."""
        self.now += seconds

    def gpu(self, seconds: float) -> None:
        """The host asks for work."""
        self.done = max(self.done, self.now) + seconds

    def ready_at(self, at: float) -> None:
        """What is asked for next waits for another stream's work."""
        self.done = max(self.done, at)


class Event:
    """torch.cuda.Event on that clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.at = -1.0

    def record(self) -> None:
        """On the stream: it passes when all work before it is done."""
        self.clock.gpu(0.0)
        self.at = self.clock.done

    def query(self) -> bool:
        """Whether it passed."""
        return self.clock.now >= self.at

    def synchronize(self) -> None:
        """Block the host until it passed."""
        self.clock.synchronised += 1
        self.clock.now = max(self.clock.now, self.at)

    def elapsed_time(self, later: Event) -> float:
        """Milliseconds, as CUDA's; it knows none before both passed."""
        assert self.query() and later.query(), "cudaErrorNotReady"
        return 1000 * (later.at - self.at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    def event(*, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(clock)

    monkeypatch.setattr(torch.cuda, "Event", event)
    return clock


def steps(clock: Clock, wait: DataWait, number: int, *, load: float, launch: float, work: float) -> None:
    """Steps whose loader blocks the host, whose launches keep it busy, and whose work the GPU does."""
    for _ in range(number):
        with wait.measured():
            clock.host(load)
        clock.host(launch)
        clock.gpu(work)


def test_a_busy_gpu_waits_for_nothing(clock: Clock) -> None:
    """The host is blocked for 75 % of the time, and the GPU works without a pause after the first batch."""
    wait = DataWait(GPU)
    steps(clock, wait, 1, load=0.075, launch=0.025, work=0.1)
    first = wait.seconds()
    assert first == pytest.approx(0.075)
    steps(clock, wait, 40, load=0.075, launch=0.025, work=0.1)
    assert wait.seconds() - first == pytest.approx(0, abs=1e-9)
    assert clock.now == pytest.approx(41 * 0.1)


def test_a_gpu_that_starves(clock: Clock) -> None:
    """A step takes the GPU 70 ms and its batch comes every 100: it waits 30 % of the time."""
    wait = DataWait(GPU)
    steps(clock, wait, 1, load=0.1, launch=0, work=0.07)
    first, begun = wait.seconds(), clock.now
    steps(clock, wait, 40, load=0.1, launch=0, work=0.07)
    assert (wait.seconds() - first) / (clock.now - begun) == pytest.approx(0.3)


def test_only_the_loader_s_time_counts(clock: Clock) -> None:
    """A GPU that waits for launches, a log line, a checkpoint or an evaluation waits for no data."""
    wait = DataWait(GPU)
    for _ in range(10):
        steps(clock, wait, 1, load=0.01, launch=0.2, work=0.05)
        # as a log line does, then a checkpoint
        clock.host(max(0.0, clock.done - clock.now) + 0.5)
        # an evaluation's own work
        clock.gpu(3.0)
    assert wait.seconds() == pytest.approx(0.01)
    idle = DataWait(GPU)
    for _ in range(10):
        # a checkpoint, in which the GPU has nothing to do
        clock.host(5.0)
        steps(clock, idle, 1, load=0.01, launch=0.2, work=0.05)
    assert idle.seconds() == pytest.approx(10 * 0.01)


def test_what_the_gpu_does_to_a_batch_counts(clock: Clock) -> None:
    """It decodes on a stream of its own: the host goes on at once, the step waits on its stream."""
    wait = DataWait(GPU)
    for number in range(1, 11):
        with wait.measured():
            clock.ready_at(0.1 * number)
        clock.gpu(0.06)
    # the first one waits for all of its decoding
    assert wait.seconds() == pytest.approx(0.1 + 9 * 0.04)


def test_the_host_never_waits_between_log_lines(clock: Clock) -> None:
    wait = DataWait(GPU)
    steps(clock, wait, 50, load=0, launch=0.001, work=0.1)
    assert clock.synchronised == 0 and clock.now == pytest.approx(0.05)
    assert wait.seconds() == pytest.approx(0)
    # not the last step's own work
    assert clock.synchronised == 1 and clock.now == pytest.approx(0.001 + 49 * 0.1)
    assert DataWait(GPU).seconds() == 0 and clock.synchronised == 1


def test_few_events_are_kept(clock: Clock) -> None:
    """As many as the host is ahead, however long a window is."""
    wait = DataWait(GPU)
    steps(clock, wait, 1000, load=0.1, launch=0.0, work=0.35)
    ahead = (clock.done - clock.now) / 0.35
    assert len(wait._pairs) <= ahead + 1 < 800
    clock.host(clock.done)
    steps(clock, wait, 1000, load=0.1, launch=0.0, work=0.09)
    assert len(wait._pairs) <= 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_window_reports_its_own_device_s_wait(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Of each window alone; on a CPU it is the host that waits."""
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(log_window, "peak_bytes", lambda _: 0)
    plan = Plan(samples=64, steps=80, global_batch=8, micro_batch=8, micro_steps=1, world=1)
    world = World(device=torch.device(device))
    window = LogWindow(Config(), plan, world, None, begun=clock.now)
    shares: list[float] = []
    loss, norm, skipped = torch.zeros(3)
    for load in (0.05, 0.1):
        for _ in range(20):
            with window.wait.measured():
                clock.host(load)
            clock.gpu(0.08)
            if device == "cpu":
                clock.host(0.08)
            window.add(loss, norm, skipped)
        # a log line waits for the device
        clock.host(max(0.0, clock.done - clock.now))
        shares.append(window.to_record(20, 0.0, window.stats_at_begin)["data_wait_pct"])
        window = window.next(window.stats_at_begin)
        window.begun = clock.now
    if device == "cpu":
        assert shares == pytest.approx([100 * 0.05 / 0.13, 100 * 0.1 / 0.18])
    else:
        assert shares == pytest.approx([100 * 0.05 / 1.65, 100 * (0.1 + 19 * 0.02) / 2.08])


@pytest.mark.usefixtures("one_thread")
def test_slow_data_is_explained_now_and_then(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader slowed by sleep."""
    real = ReadAhead.__next__

    def slow(self: ReadAhead) -> Any:
        time.sleep(0.05)
        return real(self)

    monkeypatch.setattr(ReadAhead, "__next__", slow)
    result = pretrain(config_for(tiny_split.folder, tmp_path, optim={"epochs": 6}), console=quiet())
    lines = (tmp_path / "r" / "train.log").read_text().splitlines()
    said = [line for line in lines if "spent waiting for data" in line]
    assert all(
        f"most for reading: `turbomim tune loader --data {tiny_split.folder}`" in line for line in said
    )
    assert LINES_BETWEEN_HINTS < result.steps <= 2 * LINES_BETWEEN_HINTS and 1 <= len(said) <= 2


def test_the_slow_stage_has_a_remedy(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "cores", lambda: 8)

    def words(
        wait: float,
        read: float,
        decode: float,
        split: Split,
        threads: int = 8,
        augment: float = 0,
        world: World = ALONE,
    ) -> str | None:
        waits = {"read_wait_pct": read, "decode_wait_pct": decode, "augment_wait_pct": augment}
        record = {"data_wait_pct": wait, **waits}
        return slow_stage(record, split, LoaderSpeed(threads=threads), world)

    assert words(4.9, 4.9, 0, tiny_split) is None
    assert re.match(r"6 % .* most for reading: `turbomim tune loader", words(6, 4, 1, tiny_split) or "")
    assert "most for decoding: more threads may help, --data.threads 8" in (
        words(6, 1, 4, tiny_split, threads=2) or ""
    )
    assert "most for decoding: `turbomim shard make --store resized`" in (words(6, 1, 4, tiny_split) or "")
    assert "most for decoding: `turbomim tune loader" in (words(6, 1, 4, stored(tiny_split)) or "")
    # pixels are not decoded: what waits for them waits for reads
    raw = stored(tiny_split, "raw")
    assert "most for reading: `turbomim tune loader" in (words(6, 1, 4, raw) or "")
    few = words(6, 1, 4, raw, threads=2) or ""
    assert "most for reading: more threads may help, --data.threads 8" in few
    assert "most for RandAugment: this rank has 8 cores" in (words(6, 1, 2, tiny_split, augment=3) or "")
    # four ranks share the cores
    shared = dataclasses.replace(ALONE, local_size=4)
    assert "this rank has 2 cores" in (words(6, 1, 2, tiny_split, augment=3, world=shared) or "")


def test_the_slow_stage_of_a_gpu(tiny_split: Split) -> None:
    """The host's waits may be longer than the device's, or shorter: the GPU has work of its own."""

    def words(wait: float, read: float, decode: float) -> str | None:
        record = {"data_wait_pct": wait, "read_wait_pct": read, "decode_wait_pct": decode}
        world = World(device=torch.device("cuda"))
        return slow_stage(record | {"augment_wait_pct": 0}, tiny_split, LoaderSpeed(threads=99), world)

    # the host is blocked, the GPU is not
    assert words(2, 70, 5) is None
    assert re.match(r"8 % .* most for reading: ", words(8, 70, 5) or "")
    assert re.match(r"30 % .* most for decoding: ", words(30, 2, 25) or "")
    own = words(30, 2, 3) or ""
    assert "most for the GPU's own decoding and copies: `turbomim tune loader" in own
