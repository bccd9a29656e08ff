"""Every optimizer on one rank: killed and resumed, bit for bit.

AdamW's runs are those of all other tests of the loop.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.runs import config_for, finish, launch, losses, outcome, run
from tests.train.loop.test_faults_numbers import NAMES, bad_data


@pytest.mark.parametrize("name", [name for name in NAMES if name != "adamw"])
def test_killed_and_resumed(trees: Path, tmp_path: Path, name: str) -> None:
    """Killed before step 8 of 16, resumed from step 4: steps 5 to 7 and the end are those of a whole run."""
    optim, runs = {"epochs": 4, "name": name}, {"save_every": 4}
    killed = config_for(trees, tmp_path / "killed", optim=optim, run=runs)
    assert finish(launch(bad_data, killed, 0, 0, (8, signal.SIGKILL))) == -signal.SIGKILL
    before = losses(tmp_path / "killed" / "r")
    assert len(before) == 7
    run(killed)
    run(config_for(trees, tmp_path / "whole", optim=optim, run=runs))
    assert "resumed from" in (tmp_path / "killed" / "r" / "train.log").read_text()
    assert outcome(tmp_path / "killed" / "r") == outcome(tmp_path / "whole" / "r")
    assert losses(tmp_path / "killed" / "r")[:7] == before
