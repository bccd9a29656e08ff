"""What an evaluation prints.  Planted bug: a table of rich's own width in a pipe, which breaks words."""

from __future__ import annotations

import pytest

from turbomim.train.evaluate.results import print_table


def test_no_word_is_broken_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    features = "trained: mean of patch tokens"
    print_table({
        "run": "runs/a", "step": 3, "train": "s", "train_samples": 60, "test": "t", "test_samples": 20,
        "scores": {features: {"20 neighbours": 0.5, "weighted": 0.25}},
    })  # fmt: skip
    out = capsys.readouterr().out
    assert features in out and "20 neighbours" in out
