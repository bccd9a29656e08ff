"""One mirror and several machines: as ranks of one run, and one after the other.

Planted bugs and the test that fails on each: signs of life that nobody heeds, `test_two_machines`; a
checkpoint read where only rank 0 has it, `test_machines_with_disks_of_their_own`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runs import finish, launch_ranks, outcome, ranked
from tests.train.folder.mirroring import (
    assert_mirrored,
    bare,
    content,
    hurried,
    hurry,
    log,
    mirrored,
    said,
    start,
    taken,
    there,
)

from turbomim.train.folder.copied import LEASE, whole_in
from turbomim.train.loop.step import Step
from turbomim.train.settings.config import Config


def test_machines_with_disks_of_their_own(trees: Path, tmp_path: Path, whole: Path) -> None:
    """Two ranks on two machines: the second, which has no run folder, gets checkpoints through the mirror.

    At a resume, after which the losses are the same, and at a roll-back.
    """
    runs = {"save_every": 5, "save_in_background": False}
    config = mirrored(trees, Path("runs"), "../mirror", **runs)
    optim = dataclasses.replace(config.optim, max_skipped=4)
    config = dataclasses.replace(config, optim=optim)

    def go(machines: Path, stop: int, bad: tuple[int, int] | None) -> str:
        ranks = launch_ranks(on_its_own_disk, 2, config, machines, stop, bad)
        assert [finish(process) for process in ranks] == [0, 0]
        return (machines / "0" / "runs" / "r" / "train.log").read_text()

    assert "stopped by" in go(tmp_path / "a", 8, None)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for machines, bad in ((tmp_path / "a", None), (tmp_path / "b", (12, 15))):
        text = go(machines, 0, bad)
        assert "resumed from runs/r/ckpt/step-00000008" in text
        assert ("roll-back 1 of" in text) == (bad is not None)
        brought = {path.name for path in (machines / "1" / "runs" / "r" / "ckpt").iterdir()}
        assert brought == {"step-00000008", *(["step-00000010"] if bad else [])}
    found, wanted = (dict(outcome(f)[1]) for f in (tmp_path / "a" / "0" / "runs" / "r", whole))
    assert found.keys() == wanted.keys()
    theirs = [float.fromhex(wanted[step]) for step in found]
    assert [float.fromhex(loss) for loss in found.values()] == pytest.approx(theirs, abs=1e-5)


def on_its_own_disk(
    config: Config, folder: Path, stop: int, bad: tuple[int, int] | None, rank: int, world: int, port: int
) -> None:
    """A rank on a machine of its own; asked to stop in a step; weights go bad in some steps."""
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    (folder / str(rank)).mkdir(parents=True, exist_ok=True)
    os.chdir(folder / str(rank))
    step = Step.__call__

    def call(self: Step, batches: Any, lr: float) -> Any:
        number = batches[0].position // 8 + 1
        if number == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        if bad and bad[0] <= number <= bad[1]:
            lr = float("nan")
        return step(self, batches, lr)

    setattr(Step, "__call__", call)  # noqa: B010
    hurry()
    ranked(config, rank, world, port)


def test_two_machines(done: Config, tmp_path: Path, whole: Path) -> None:
    """The second is refused while the first lives, and goes on where that has died."""
    before = content(bare(done))
    process, number = start(hurried, done), 0
    while process.is_alive():
        number += 1
        taken(there(done), number)
        time.sleep(0.1)
    assert finish(process) == 1
    assert said(done) == (
        f"the mirror {there(done)} is in use by process 7 on elsewhere: wait for its end, or give another "
        "--run.name"
    )
    found = content(done)
    assert json.loads(found.pop(LEASE))["lease"] == "x" and found == before
    assert finish(start(hurried, done)) == 0
    assert outcome(tmp_path / "r") == outcome(whole)
    assert_mirrored(done)


def test_a_mirror_that_another_machine_took(trees: Path, tmp_path: Path, whole: Path) -> None:
    """While this one was out of reach: it goes on, and copies nothing any more."""
    config = mirrored(trees, tmp_path, tmp_path / "mirror")
    assert finish(start(taken_in_between, config)) == 0
    text, of = log(config), f"mirror {tmp_path}/mirror/r"
    assert f"the {of} was taken over by process 7 on elsewhere; from now on nothing is copied" in text
    assert text.count(f"{of}: step-00000021 is not there") == 1
    assert outcome(tmp_path / "r") == outcome(whole)
    assert json.loads(content(config)[LEASE])["host"] == "elsewhere"
    assert "step-00000021" not in whole_in(content(config))


def taken_in_between(config: Config) -> None:
    step, count = Step.__call__, 0

    def call(self: Step, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 8:
            number = 0
            # again and again: a beat of this one that was on its way is put over the first
            while "was taken over" not in log(config):
                number += 1
                taken(there(config), number)
                time.sleep(0.01)
        return step(self, *args)

    setattr(Step, "__call__", call)  # noqa: B010
    hurried(config)
