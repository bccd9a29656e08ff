"""A rank that dies, hangs or raises ends the job with its name; a request to stop stops all at one step.

Planted bugs and the test that fails on each: a watch that never finds anybody missing fails
`test_a_lost_rank_is_named`; a rank that follows its own flag only fails
`test_one_rank_asked_to_stop_stops_all`; a second signal that always ends at once fails
`test_an_echo_of_the_signal_is_not_a_second_one`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from tests.runs import (
    as_rank,
    attempt,
    config_for,
    finish,
    free_port,
    killed_at_the_end,
    launch,
    launch_ranks,
    outcome,
    records,
    run,
    status,
    wait_for,
)

from turbomim.train.folder import checkpoint
from turbomim.train.loop.step import Step
from turbomim.train.settings.config import Config
from turbomim.train.world.peers import Sign, lost_ranks, ranks_behind
from turbomim.train.world.signals import stop_flag

# seconds that a rank waits for the others in these tests
TIMEOUT = 4.0


def lively(config: Config, slow_s: float, rank: int, world: int, port: int) -> None:
    """A rank whose steps take at least `slow_s` seconds, and whose fourth says so, or raises if told to."""
    real, calls = Step.__call__, 0

    def slow(self: Step, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4 and Path(config.run.folder, f"raise-{rank}").exists():
            raise ZeroDivisionError("a bug on one rank")
        if calls == 4:
            Path(config.run.folder, f"fourth-{rank}").touch()
        time.sleep(slow_s)
        return real(self, *args)

    setattr(Step, "__call__", slow)  # noqa: B010
    as_rank(rank, world, port)
    attempt(config)


def pid_of(process: BaseProcess) -> int:
    assert process.pid is not None
    return process.pid


FATES = {
    "dies": (signal.SIGKILL, "has given no sign of life"),
    "hangs": (signal.SIGSTOP, "has given no sign of life"),
    "raises": (None, "ended: a bug on one rank"),
}


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_is_named(trees: Path, tmp_path: Path, fate: str, lost: int) -> None:
    number, words = FATES[fate]
    config = config_for(trees, tmp_path, step={"rank_timeout": TIMEOUT}, optim={"epochs": 400})
    folder = tmp_path / "r"
    if number is None:
        (tmp_path / f"raise-{lost}").touch()
    processes = launch_ranks(lively, 2, config, 0.05)
    with killed_at_the_end(processes):
        wait_for(lambda: len(records(folder)) >= 3, processes[1 - lost])
        if number is not None:
            os.kill(pid_of(processes[lost]), number)
        begun = time.monotonic()
        assert finish(processes[1 - lost]) == 1
        assert time.monotonic() - begun < 60
    said = (tmp_path / f"said-{1 - lost}").read_text()
    if (lost, fate) == (0, "dies"):
        # the store of the ranks dies with it
        words = "is gone"
    assert f"rank {lost} " in said and words in said and "\n" not in said, said
    if lost == 1:
        assert status(folder)["status"] == "failed"
        assert words in (folder / "train.log").read_text().splitlines()[-1]
    assert all(checkpoint.is_whole(path) for path in checkpoint.complete(folder / "ckpt"))


def test_what_the_signs_say() -> None:
    here, gone = Sign("a", 5, 9, None), Sign("b", 3, 8, None)
    assert lost_ranks([here, gone], [0.0, 4.9], 5.0) == {}
    assert "rank 1 on b has given no sign of life for 5 s" in lost_ranks([here, gone], [0.0, 5.0], 5.0)[1]
    ended = Sign("b", 3, 8, "boom")
    # one that told its end is the cause, not one that fell silent after it
    assert lost_ranks([gone, ended], [9.0, 0.0], 5.0) == {1: "rank 1 on b ended: boom"}
    done = Sign("b", 3, 8, "")
    assert lost_ranks([here, done], [0.0, 99.0], 5.0) == {}
    assert (
        list(ranks_behind([here, gone])) == [1]
        and ranks_behind([here, here]) == {}
        and ranks_behind([here, done]) == {}
    )


def test_ranks_that_do_not_come_are_said(trees: Path, tmp_path: Path) -> None:
    config = config_for(trees, tmp_path, step={"rank_timeout": 2.0})
    assert finish(launch(lively, config, 0.0, 0, 2, free_port())) == 1
    said = (tmp_path / "said-0").read_text()
    assert "rank 0: the 2 ranks did not come together within 2 s" in said and "--step.rank_timeout" in said


@pytest.mark.parametrize(
    ("number", "asked"),
    [(signal.SIGTERM, (0,)), (signal.SIGUSR2, (1,)), (signal.SIGTERM, (0, 1))],
    ids=["SIGTERM rank 0", "SIGUSR2 rank 1", "SIGTERM all"],
)
def test_one_rank_asked_to_stop_stops_all(
    trees: Path, tmp_path: Path, asked: tuple[int, ...], number: signal.Signals
) -> None:
    """At most the step under way is finished; log lines are rare, and the checkpoint is the stop's own."""
    run_settings = {"log_every": 1000, "save_every": 1000}
    config = config_for(trees, tmp_path, run=run_settings, optim={"epochs": 60})
    folder = tmp_path / "r"
    processes = launch_ranks(lively, 2, config, 0.25)
    for rank, process in enumerate(processes):
        wait_for((tmp_path / f"fourth-{rank}").exists, process)
    begun = time.monotonic()
    for rank in asked:
        os.kill(pid_of(processes[rank]), number)
    assert [finish(process) for process in processes] == [0, 0]
    # all steps take a minute
    assert time.monotonic() - begun < 30
    ended = status(folder)
    assert ended["status"] == "preempted" and ended["step"] >= 4
    found, _ = checkpoint.newest(folder / "ckpt")
    assert found is not None and checkpoint.read_state(found).step == ended["step"]
    assert [r["step"] for r in records(folder)] == [ended["step"]]


def test_a_stop_while_saving_waits_for_the_disk(trees: Path, tmp_path: Path) -> None:
    """The disk is slow, the signal comes while a checkpoint is being written beside the steps."""
    config = config_for(trees, tmp_path / "broken")
    folder = tmp_path / "broken" / "r"
    process = launch(slow_disk, config)
    wait_for(lambda: (folder / "ckpt" / ".tmp-step-00000003").exists(), process)
    os.kill(pid_of(process), signal.SIGTERM)
    (tmp_path / "broken" / "asked").touch()
    assert finish(process) == 0
    ended = status(folder)
    assert ended["status"] == "preempted"
    found, damaged = checkpoint.newest(folder / "ckpt")
    assert found is not None and not damaged and checkpoint.read_state(found).step == ended["step"]
    assert "step-00000003" in {path.name for path in checkpoint.complete(folder / "ckpt")}
    run(config)
    run(config_for(trees, tmp_path / "whole"))
    assert outcome(folder) == outcome(tmp_path / "whole" / "r")


def slow_disk(config: Config) -> None:
    """An attempt whose syncs of its first checkpoint take until the signal, and longer."""
    real = os.fsync

    def slow(handle: int) -> None:
        if ".tmp-step-00000003" in os.readlink(f"/proc/self/fd/{handle}"):
            while not Path(config.run.folder, "asked").exists():
                time.sleep(0.01)
            time.sleep(0.2)
        real(handle)

    setattr(os, "fsync", slow)  # noqa: B010
    attempt(config)


def test_an_echo_of_the_signal_is_not_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun passes on a Ctrl-C that its ranks had from the terminal already."""
    clock = 100.0
    monkeypatch.setattr("turbomim.train.world.signals.time.monotonic", lambda: clock)
    with stop_flag() as flag:
        os.kill(os.getpid(), signal.SIGINT)
        clock += 1.9
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("an echo ended the process")
        assert flag.name == "SIGINT"
        clock += 0.2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_the_launcher_asked_to_stop(trees: Path, tmp_path: Path) -> None:
    """torchrun itself ends with 1 when stopped; status.json and the checkpoint tell how the run ended."""
    flags = [
        "demo", f"--data.path={trees}", f"--run.folder={tmp_path}", "--run.name=r", "--step.compile=false",
        "--step.device=cpu", "--data.size=32", "--model.radius=6", "--data.threads=1", "--optim.epochs=4000",
        "--run.log_every=1", "--optim.global_batch=8", "--model.depth=1",
    ]  # fmt: skip
    launcher = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}",
         "-m", "turbomim", "pretrain", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while len(records(tmp_path / "r")) < 3:
            assert launcher.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(60) == 1
    finally:
        launcher.kill()
    ended = status(tmp_path / "r")
    found, _ = checkpoint.newest(tmp_path / "r" / "ckpt")
    assert ended["status"] == "preempted"
    assert found is not None and checkpoint.read_state(found).step == ended["step"]
