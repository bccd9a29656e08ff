"""Weights & Biases, by a stand-in that has the functions that are called.

Planted bug: kept records not sent to a new run: `test_each_start_is_a_run_with_the_whole_curve`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.train.trackers.killed import KEPT, KILLED, drawn, killed_and_resumed

from turbomim.pipeline.tars.split import Split


class FakeRun:
    """What wandb.init returns."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.rows = settings, list[tuple[int, dict[str, Any]]]()
        self.exit_code: int | None = None

    def log(self, values: dict[str, Any], step: int) -> None:
        assert self.exit_code is None
        self.rows.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_each_start_is_a_run_with_the_whole_curve(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[FakeRun] = []

    def init(**settings: Any) -> FakeRun:
        runs.append(FakeRun(settings))
        return runs[-1]

    fake = SimpleNamespace(init=init, Image=lambda path: Path(path).name, __spec__=object())
    monkeypatch.setitem(sys.modules, "wandb", fake)
    steps = len(killed_and_resumed(drawn(tiny_split.folder, tmp_path, wandb="mim"), monkeypatch))
    first, second = runs
    assert (first.exit_code, second.exit_code) == (1, 0), "the first one was killed"
    assert [each.settings["group"] for each in runs] == ["r", "r"]
    assert [each.settings["name"] for each in runs] == ["r", f"r-from-{KEPT}"]
    assert second.settings["project"] == "mim" and second.settings["config"]["model"]["width"] == 32
    assert [step for step, values in first.rows if "loss/train" in values] == list(range(1, KILLED + 1))
    assert [step for step, values in second.rows if "loss/train" in values] == list(range(1, steps + 1))
    pictures = [(step, values) for step, values in second.rows if "reconstruction" in values]
    assert pictures[0] == (5, {"reconstruction": "reconstruction-00000005.png"})
