"""`turbomim analyze layers`: the shares are the log's, step by step, and other runs are refused.

Planted, each seen to fail the test named: shares of blocks exchanged, a share that is null
(`test_records_without_every_share_are_left_out`); a run that fuses nothing let through
(`test_a_run_that_fuses_nothing_is_one_line`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.calls import call
from tests.runs import config_for, quiet, records
from tests.train.models.test_mae import with_model

from turbomim.train.analyze.layers import fusion_shares
from turbomim.train.folder.log import Record
from turbomim.train.pretrain.pretrain import pretrain


def test_records_without_every_share_are_left_out() -> None:
    log: list[Record] = [
        {"step": 1, "model/fuse_0": 0.5, "model/fuse_1": 0.5},
        {"step": 2, "loss": 1.0},
        {"step": 3, "model/fuse_0": 0.25, "model/fuse_1": 0.75},
        {"step": 4, "model/fuse_0": 0.2, "model/fuse_1": None},
    ]
    steps, found = fusion_shares(log, 2)
    assert steps.tolist() == [1, 3] and found.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert len(fusion_shares(log[1:2], 2)[0]) == 0


def test_the_command_shows_the_logs_shares(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(trees, tmp_path, optim={"epochs": 1.5, "warmup_epochs": 0})
    run = pretrain(with_model(config, method="mff", depth=3, fuse="0,2"), console=quiet()).folder
    assert call(monkeypatch, "analyze", "layers", str(run), "--out", str(tmp_path / "o")) == 0
    found = json.loads((tmp_path / "o" / "layers.json").read_text())
    assert (tmp_path / "o" / "layers.png").read_bytes()[:4] == b"\x89PNG"
    assert (found["analysis"], found["run"], found["results"]["blocks"]) == ("layers", str(run), [0, 2])
    log = records(run)
    assert found["results"]["steps"] == [record["step"] for record in log] and len(log) == 7
    for level, block in enumerate(("0", "2")):
        assert found["results"]["shares"][block] == [record[f"model/fuse_{level}"] for record in log]
    sums = np.sum(list(found["results"]["shares"].values()), axis=0)
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert found["results"]["shares"]["0"][-1] != found["results"]["shares"]["0"][0]
    out = capsys.readouterr().out
    assert f"{100 * log[-1]['model/fuse_0']:.1f}" in out

    (run / "metrics.jsonl").write_text("")
    assert call(monkeypatch, "analyze", "layers", str(run)) == 1
    assert "has no shares of 2 blocks: let the run reach" in capsys.readouterr().err


def test_a_run_that_fuses_nothing_is_one_line(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain(
        config_for(trees, tmp_path, optim={"epochs": 0.3, "warmup_epochs": 0}), console=quiet()
    ).folder
    assert call(monkeypatch, "analyze", "layers", str(run)) == 1
    err = capsys.readouterr().err
    assert "method mae, which fuses no blocks: give a run of method mff" in err and len(err.splitlines()) == 1
