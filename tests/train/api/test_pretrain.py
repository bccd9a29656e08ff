"""`turbomim.pretrain` and `turbomim.Run`: the command's run, from Python."""

import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.runs import config_for, outcome, quiet

import turbomim
from turbomim.train.folder.rundir import write_settings
from turbomim.train.loop.run import Outcome
from turbomim.train.pretrain.pretrain import pretrain as run_pretraining
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict

pytestmark = pytest.mark.usefixtures("here")


def settings_of(config: Config) -> dict[str, Any]:
    """Every setting of a small run, by section.key."""
    sections = to_dict(config)
    free = ("data.path", "run.name", "run.recipe")
    return {
        f"{section}.{key}": value
        for section, keys in sections.items()
        for key, value in keys.items()
        if f"{section}.{key}" not in free
    }


@pytest.fixture
def small(trees: Path) -> dict[str, Any]:
    """Settings of a run of a few steps."""
    return settings_of(config_for(trees, Path("runs"), optim={"epochs": 1, "warmup_epochs": 0}))


def test_a_call_is_the_commands_run(trees: Path, small: dict[str, Any]) -> None:
    run = turbomim.pretrain("demo", data=trees, name="mine", console=quiet(), **small)
    config = config_for(trees, Path("runs"), optim={"epochs": 1, "warmup_epochs": 0}, run={"name": "other"})
    run_pretraining(config, console=quiet())
    assert outcome(run.folder) == outcome(Path("runs/other"))
    assert run.status == "done" and run.step == 5
    assert [record["step"] for record in run.metrics] == [1, 2, 3, 4, 5]
    assert run.settings["optim"]["epochs"] == 1
    assert os.fspath(run) == "runs/mine"


def test_a_run_is_reported_and_drawn(trees: Path, small: dict[str, Any]) -> None:
    run = turbomim.pretrain("demo", data=trees, name="mine", console=quiet(), **small)
    page = run.report()
    assert page.path == Path("runs/mine/report.html") and page.path.stat().st_size > 10_000
    shown = page._repr_html_()
    assert shown.startswith("<iframe srcdoc=") and "&lt;html" in shown and "<html" not in shown
    picture = run.show(images=2, out="picture.png")
    assert picture.width > 5 * 32 and Path("picture.png").exists()
    Path("runs/mine/eval").mkdir()
    Path("runs/mine/eval/knn.json").write_text(json.dumps({"scores": {}}), encoding="utf-8")
    assert run.evaluations == {"knn": {"scores": {}}}


def test_a_call_that_is_stopped_goes_on(trees: Path, small: dict[str, Any]) -> None:
    class Stopping(Console):
        """Asks the process to stop when the second step is said."""

        def print(self, *objects: Any, **options: Any) -> None:
            if str(objects[0]).startswith("step 2/"):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        turbomim.pretrain("demo", data=trees, name="mine", console=Stopping(quiet=True), **small)
    assert turbomim.Run("runs/mine").status == "preempted"
    run = turbomim.pretrain("demo", data=trees, name="mine", console=quiet(), **small)
    assert run.status == "done" and [record["step"] for record in run.metrics] == [1, 2, 3, 4, 5]


def test_a_run_in_another_thread(trees: Path, small: dict[str, Any]) -> None:
    ended: list[turbomim.Run] = []

    def train() -> None:
        ended.append(turbomim.pretrain("demo", data=trees, name="mine", console=quiet(), **small))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert [run.status for run in ended] == ["done"]


def test_what_cannot_be_is_one_line(trees: Path) -> None:
    with pytest.raises(turbomim.UserError, match=r"did you mean optim\.epochs"):
        turbomim.pretrain("demo", data=trees, name="mine", **{"optim.epoch": 2})
    with pytest.raises(turbomim.UserError, match="is not a run: it does not exist"):
        turbomim.Run("runs/nothing")
    assert not Path("runs").exists()


@pytest.mark.parametrize("images", ["3", 2.5, True])
def test_photographs_that_are_no_number_are_one_line(images: Any, trees: Path, tmp_path: Path) -> None:
    write_settings(tmp_path, config_for(trees, tmp_path), torch.device("cpu"), 1)
    with pytest.raises(turbomim.UserError, match=f"^images = {images!r}: must be a whole number$"):
        turbomim.Run(tmp_path).show(images=images)


def test_files_that_were_damaged_are_no_tracebacks(trees: Path, tmp_path: Path) -> None:
    """Planted, and seen to fail: the step as int() has it, and results as json.loads does."""
    write_settings(tmp_path, config_for(trees, tmp_path), torch.device("cpu"), 1)
    run = turbomim.Run(tmp_path)
    (run.folder / "status.json").write_text('{"status": null, "step": null}')
    assert run.step == 0 and run.status == ""
    (run.folder / "eval").mkdir()
    (run.folder / "eval" / "knn.json").write_text('{"scores": ')
    with pytest.raises(turbomim.UserError, match=r"knn.json cannot be read: .*: evaluate again, or remove"):
        print(run.evaluations)


def test_numpy_numbers_are_numbers(trees: Path, small: dict[str, Any]) -> None:
    """A sweep hands them over: the files of a run hold plain ones.

    Planted, and seen to fail: a float of numpy left as it is, which YAML cannot write.
    """
    swept = {"optim.base_lr": np.logspace(-4, -3, 2)[1], "run.seed": np.int64(3), "step.compile": np.False_}
    run = turbomim.pretrain("demo", data=trees, name="mine", console=quiet(), **{**small, **swept})
    kept = [run.settings[section][key] for section, key in (name.split(".") for name in swept)]
    assert kept == [1e-3, 3, False] and [type(value) for value in kept] == [float, int, bool]


@pytest.mark.parametrize(("setting", "argument"), [("data.path", "data"), ("run.name", "name")])
def test_what_an_argument_says_is_no_setting_too(trees: Path, setting: str, argument: str) -> None:
    with pytest.raises(turbomim.UserError, match=f"{setting} is a setting and the argument {argument}"):
        turbomim.pretrain("demo", data=trees, name="mine", **{setting: "other"})


def test_a_run_is_the_same_in_another_folder(trees: Path, small: dict[str, Any]) -> None:
    """Planted, and seen to fail: the relative path, whose run had no status and no steps elsewhere."""
    run = turbomim.pretrain("demo", data=trees, name="mine", console=quiet(), **small)
    assert run.folder == Path("runs/mine")
    Path("elsewhere").mkdir()
    with contextlib.chdir("elsewhere"):
        assert run.status == "done" and len(run.metrics) == 5
        assert run.folder.is_absolute() and run == turbomim.Run("../runs/mine")


def test_a_rank_that_sees_no_folder_ends_well(
    trees: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank on another machine, where nothing of the run was written.

    Planted, and seen to fail: the settings read where the call returns.
    """
    ended = Outcome(folder=Path("runs/there"), status="done", step=5, steps=5)
    monkeypatch.setattr("turbomim.train.api.pretrain.run_pretraining", lambda *_, **__: ended)
    assert turbomim.pretrain("demo", data=trees, name="there", **small).folder == ended.folder
