from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.runs import config_for, quiet

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import RunConfig
from turbomim.train.trackers.opening import TRACKERS, check_trackers


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_one_line_before_anything_starts(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == name else find(module))
    value: Any = True if name == "tensorboard" else "mim"
    with pytest.raises(UserError) as error:
        pretrain(config_for(tiny_split.folder, tmp_path, run={name: value}), console=quiet())
    shown = "true" if value is True else value
    assert str(error.value) == (
        f'run.{name} = {shown} needs {name}, not installed: pip install "turbomim[{name}]"'
    )
    assert list(tmp_path.iterdir()) == [], "no run folder was made"
    check_trackers(RunConfig())


def test_a_package_that_cannot_be_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "wandb.py").write_text("raise RuntimeError('two\\nlines')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(
        UserError, match=r"^run.wandb = mim: wandb cannot be imported: RuntimeError: two lines$"
    ):
        check_trackers(RunConfig(wandb="mim"))


def test_a_tracker_that_fails_ends_no_run(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**settings: Any) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, __spec__=object()))
    config = config_for(tiny_split.folder, tmp_path, run={"wandb": "mim"}, optim={"epochs": 2})
    steps = pretrain(config, console=quiet()).steps
    log = (tmp_path / "r" / "train.log").read_text()
    assert log.count("run.wandb: ConnectionError: nobody there; the run goes on") == 1
    assert f"run.wandb: {steps} records not sent; metrics.jsonl has all" in log
