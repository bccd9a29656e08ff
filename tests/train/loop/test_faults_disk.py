"""A disk that is full at a checkpoint or at a log line: one line with the bytes free, nothing lost.

Planted bugs and the test that fails on each: a saver whose error nobody asks for before the next checkpoint
fails `test_a_full_disk_at_a_checkpoint`; the system's own words left as they are, with no file, fail
`test_a_full_disk_at_a_log_line`.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runs import attempt, config_for, finish, launch, outcome, records, run, status

from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint
from turbomim.train.loop.step import Step
from turbomim.train.settings.config import Config


def limited(config: Config, most: int) -> None:
    """An attempt that from its fifth step on makes no file longer than `most` bytes; 0: than its metrics."""
    real, calls = Step.__call__, 0
    write, failed = checkpoint.write, threading.Event()
    folder = Path(config.run.folder, "r")

    def watched(*args: Any) -> Path:
        try:
            return write(*args)
        except UserError:
            failed.set()
            raise

    def step(self: Step, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            while not checkpoint.complete(folder / "ckpt"):
                time.sleep(0.01)
            allowed = most or os.path.getsize(folder / "metrics.jsonl") + 10
            resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, resource.RLIM_INFINITY))
        # of a write beside the steps
        assert calls < 9 or failed.wait(60)
        return real(self, *args)

    setattr(checkpoint, "write", watched)  # noqa: B010
    setattr(Step, "__call__", step)  # noqa: B010
    attempt(config)


@pytest.mark.parametrize("background", [True, False], ids=["beside the steps", "in between"])
def test_a_full_disk_at_a_checkpoint(trees: Path, tmp_path: Path, background: bool) -> None:
    settings = {"run": {"save_every": 4, "save_in_background": background}, "optim": {"epochs": 4}}
    config = config_for(trees, tmp_path, **settings)
    folder = tmp_path / "r"
    assert finish(launch(limited, config, 50_000)) == 1
    said = (tmp_path / "said-0").read_text()
    assert "cannot write checkpoint" in said and "step-00000008" in said and "B are free" in said
    assert "earlier checkpoints are intact" in said and "\n" not in said
    assert status(folder)["status"] == "failed"
    # beside the steps it is heard of at one of the next boundaries, long before the next checkpoint
    assert 8 <= records(folder)[-1]["step"] <= (11 if background else 8)
    assert [path.name for path in checkpoint.complete(folder / "ckpt")] == ["step-00000004"]
    run(config)
    run(config_for(trees, tmp_path / "whole", **settings))
    assert outcome(folder) == outcome(tmp_path / "whole" / "r")


def test_a_full_disk_at_a_log_line(trees: Path, tmp_path: Path) -> None:
    run_settings = {"save_every": 4, "save_in_background": False}
    config = config_for(trees, tmp_path, run=run_settings, optim={"epochs": 4})
    folder = tmp_path / "r"
    assert finish(launch(limited, config, 0)) == 1
    said = (tmp_path / "said-0").read_text()
    assert "cannot be written" in said and "File too large" in said and "bytes are free" in said, said
    assert status(folder)["status"] == "failed"
    assert [path.name for path in checkpoint.complete(folder / "ckpt")] == ["step-00000004"]
    run(config)
    run(config_for(trees, tmp_path / "whole", run={"save_every": 4}, optim={"epochs": 4}))
    assert outcome(folder) == outcome(tmp_path / "whole" / "r")
