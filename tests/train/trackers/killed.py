"""A run that is killed between two checkpoints and goes on, for tests of what trackers show then."""

from pathlib import Path
from typing import Any

import pytest
from tests.runs import config_for, quiet

from turbomim.train.folder.log import Record, RunLog, read_metrics
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config

# the step of the kill, and of the last checkpoint before it
KILLED, KEPT = 7, 4


def drawn(split: Path, runs: Path, **run: Any) -> Config:
    """Settings of a run with a few pictures and checkpoints; run: more of that section."""
    own = {"save_every": KEPT, "picture_every": 5}
    return config_for(split, runs, run=own | run, optim={"epochs": 3})


def killed_and_resumed(config: Config, monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Train, die when the log has step KILLED, and go on from the checkpoint; what the log has then."""
    real = RunLog.record

    def record(self: RunLog, values: dict[str, Any]) -> None:
        real(self, values)
        if values["step"] == KILLED:
            raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "record", record)
        with pytest.raises(RuntimeError, match="killed here"):
            pretrain(config, console=quiet())
    steps = pretrain(config, console=quiet()).steps
    records = read_metrics(Path(config.run.folder, config.run.name, "metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    return records
