"""Trackio itself, in a folder of the test's own.

Planted bug: kept records not sent to a new run: `test_each_start_is_a_run_with_the_whole_curve`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from tests.train.trackers.killed import KEPT, KILLED, drawn, killed_and_resumed

from turbomim.pipeline.tars.split import Split


def test_each_start_is_a_run_with_the_whole_curve(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it reads where its folder is when it is imported
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    records = killed_and_resumed(drawn(tiny_split.folder, tmp_path / "runs", trackio="mim"), monkeypatch)
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    curves = {}
    for run in storage.get_run_records("mim"):
        rows = storage.get_logs("mim", run["name"], run_id=run["id"])
        curves[run["name"]] = [row["step"] for row in rows if "loss/train" in row]
        assert [row["step"] for row in rows if "reconstruction" in row][:1] == [5]
        settings = storage.get_run_config("mim", run["name"], run_id=run["id"])
        assert settings["_Group"] == "r" and settings["model"]["width"] == 32
    assert curves == {"r": list(range(1, KILLED + 1)), f"r-from-{KEPT}": [row["step"] for row in records]}
