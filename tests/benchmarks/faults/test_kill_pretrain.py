"""Killed at random moments and resumed, a run ends with the same bits: ten kills of the benchmark.

Planted bugs that fail it: moments that are not restored, and log lines after the checkpoint that a resumed
run leaves in place.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tests.runs import finish, launch

from turbomim.benchmarks.faults.kill_pretrain import Tally, kill_runs, make_data, plot

KILLS = 10


def kill(folder: Path) -> None:
    """In a process that has imported everything and runs no threads: attempts are forked from it."""
    torch.set_num_threads(1)
    # with an average of the weights, so that its files are compared, too
    tally, undisturbed = kill_runs(make_data(folder, 300), folder, KILLS, seed=1, ema=0.9)
    (folder / "tally.json").write_text(json.dumps([vars(tally), undisturbed]))


def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    assert finish(launch(kill, tmp_path), seconds=280) == 0
    found, undisturbed = json.loads((tmp_path / "tally.json").read_text())
    tally = Tally(**found)
    assert tally.kills == KILLS and tally.runs >= 4
    assert tally.different == 0
    assert tally.resumed >= 3, "too few kills left a checkpoint to go on from: the test tests little"
    assert [step for step, _ in undisturbed] == list(range(1, 22))
    plot(tally, undisturbed, tmp_path / "kills.png")
    assert (tmp_path / "kills.png").read_bytes().startswith(b"\x89PNG")
