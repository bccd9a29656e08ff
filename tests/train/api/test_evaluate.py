"""`turbomim.evaluate`: the results of `turbomim eval`, from Python."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.runs import config_for, quiet

import turbomim
from turbomim.train.commands.eval.knn import eval_knn_command
from turbomim.train.pretrain.pretrain import pretrain

SMALL: dict[str, Any] = {"step.compile": False, "finetune.rand_augment": "", "data.size": 32}


@pytest.fixture(scope="module")
def run(trees_of_module: Path, tmp_path_factory: pytest.TempPathFactory) -> turbomim.Run:
    """A run of a few steps.  Do not change its settings."""
    config = config_for(trees_of_module, tmp_path_factory.mktemp("runs"), optim={"epochs": 1})
    return turbomim.Run(pretrain(config, console=quiet()).folder)


@pytest.fixture(scope="module")
def trees_of_module(tiny_split: Any) -> Path:
    """The folder of `tiny_split`."""
    folder: Path = tiny_split.folder
    return folder


def test_neighbours_are_the_commands(run: turbomim.Run, trees: Path, tmp_path: Path) -> None:
    result = turbomim.evaluate(run, "knn", train=trees, test=trees)
    assert json.loads((run.folder / "eval" / "knn.json").read_text(encoding="utf-8")) == result
    eval_knn_command(
        [str(run.folder), "--train", str(trees), "--test", str(trees), "--json", f"{tmp_path}/knn.json"]
    )
    assert json.loads((tmp_path / "knn.json").read_text(encoding="utf-8")) == result
    assert run.evaluations["knn"] == result
    assert 0 < result["scores"]["trained: mean of patch tokens"]["20 neighbours"] <= 1


@pytest.mark.parametrize("measure", ["knn", "linear", "finetune"])
def test_where_the_result_goes_is_tried_first(
    measure: Any, run: turbomim.Run, trees: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted, and seen to fail: a result that is written to a file after all the work."""
    shutil.copytree(run.folder, "closed", ignore=shutil.ignore_patterns("eval"))
    Path("closed/eval").write_text("a file")
    for work in ("score_frozen", "score_linear", "finetune"):
        monkeypatch.setattr(f"turbomim.train.api.evaluate.{work}", None)
    with pytest.raises(
        turbomim.UserError, match=r"cannot write 'closed/eval': .*; --json FILE puts the result"
    ):
        turbomim.evaluate("closed", measure, train=trees, test=trees)


def test_what_a_file_does_not_tell_is_a_warning_at_the_callers_line(
    run: turbomim.Run, trees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (exported,) = turbomim.export(run, "timm", out=tmp_path / "export")
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((exported.path / "model.safetensors").read_bytes())
    with pytest.warns(UserWarning, match="does not tell its heads: 1 are assumed") as said:
        turbomim.evaluate(alone, "knn", train=trees, test=trees, console=quiet())
    assert {warning.filename for warning in said} == {__file__}
    assert capsys.readouterr() == ("", "")
    lines: list[str] = []
    turbomim.evaluate(alone, "knn", train=trees, test=trees, console=quiet(), notify=lines.append)
    assert lines == [str(warning.message) for warning in said] and "hold the same samples" in lines[1]
    eval_knn_command([str(alone), "--train", str(trees), "--test", str(trees)])
    assert capsys.readouterr().out.startswith("\n".join(lines) + "\n")


def test_a_result_of_other_settings_that_is_replaced_is_a_warning(
    run: turbomim.Run, trees: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turbomim.evaluate(run, "linear", train=trees, test=trees, console=quiet(), notify=print)
    capsys.readouterr()
    with pytest.warns(UserWarning, match="linear.json was of other settings .size 32, now 48. and is repl"):
        turbomim.evaluate(run, "linear", train=trees, test=trees, size=48, console=quiet())
    assert capsys.readouterr() == ("", "")


def test_a_fine_tuning_is_a_run(run: turbomim.Run, trees: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = turbomim.evaluate(
        run, "finetune", train=trees, test=trees, console=quiet(), epochs=1, batch=8, **SMALL
    )
    assert capsys.readouterr().out == "", "all lines go to its console"
    tuned = turbomim.Run(result["folder"])
    assert tuned.folder == run.folder / "eval" / "finetune" and tuned.status == "done"
    assert tuned.settings["finetune"]["rand_augment"] == ""
    assert run.evaluations["finetune"]["top1"] == result["top1"]


@pytest.mark.parametrize(
    ("measure", "options", "said"),
    [
        ("nearest", {}, "measure = 'nearest': must be knn, linear, finetune"),
        ("knn", {"sample": 20}, "unknown option 'sample': did you mean samples"),
        ("knn", {"samples": "many"}, "samples = many: must be a whole number"),
        ("knn", {"device": "gpu"}, "device = gpu: must be one of auto, cpu, cuda"),
        ("linear", {"recipe": "publishd"}, "recipe = publishd: must be one of solved, published"),
        ("knn", {"epochs": 3}, "unknown option 'epochs'"),
        ("linear", {"epochs": 3}, "--epochs is of --recipe published"),
        ("finetune", {"optim.epoch": 3}, "did you mean optim.epochs"),
        ("finetune", {"run.recipe": "demo"}, "run.recipe is no setting of a fine-tuning"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: turbomim.Run, trees: Path, measure: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(turbomim.UserError) as caught:
        turbomim.evaluate(run, measure, train=trees, test=trees, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)
