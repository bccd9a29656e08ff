"""Model cards: what is in them is in the run's files, and what is not there is not in them.

Planted, each seen to fail the test named: log lines after the checkpoint, `other` whatever the licence,
accuracies of random weights or of another step,
whole paths, the position as the number of samples (`test_what_a_log_an_import_and_evaluations_add`); a loss
of None (`test_a_loss_that_is_no_number_is_left_out`); a list for an object
(`test_a_damaged_file_is_one_line`); images by the settings instead of the checkpoint
(`test_what_a_bare_run_tells`); bars as they are (`test_settings_with_bars_do_not_break_the_table`); timm
for every library (`test_every_export_has_a_card`).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from tests.calls import call
from tests.exported import FINGERPRINT, POSITION, STEP, make_run, snippets
from tests.finetuned import make_finetuning

import turbomim
from turbomim import __version__
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.system.errors import UserError
from turbomim.train.export.model_card import model_card
from turbomim.train.export.programs import export
from turbomim.train.export.weights import Trained

RECORD: dict[str, Any] = {
    "step": 2, "steps": 7, "position": 16, "epoch": 16 / 33, "loss": 0.8125, "window": 2, "skipped_total": 0,
    "replaced_total": 5, "rollbacks": 0,
}  # fmt: skip
SCORES = {
    "run": "/home/somebody/runs/r", "step": 3, "train": "/data/shards/trees/train", "train_samples": 33,
    "scores": {
        "trained: class token": {"20 neighbours": 0.5, "weighted": 0.75}, "raw pixels": {"weighted": 0.25},
    },
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("here")


def card_of(trained: Trained, to: str = "timm", **options: Any) -> str:
    (exported, *_) = export(trained, to, Path("out"), **options)
    folder = exported.path if exported.path.is_dir() else exported.path.parent
    return (folder / "README.md").read_text()


def read_by_the_hub(text: str) -> dict[str, Any]:
    """The front matter, by the Hub's own library."""
    data: Any = ModelCard(text).data
    found: dict[str, Any] = data.to_dict()
    return found


def rows(text: str) -> dict[str, str]:
    """The card's two-column tables."""
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE))


def test_what_a_bare_run_tells() -> None:
    text = card_of(make_run("mae"))
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "other" and head["library_name"] == "timm"
    assert {"masked-image-modeling", "mae"} <= set(head["tags"])
    # as the Hub reads it
    assert read_by_the_hub(text) == head
    found = rows(text)
    assert found["fingerprint of the data"] == FINGERPRINT
    assert (found["steps"], found["images seen"]) == (str(STEP), str(POSITION))
    assert found["mask"] == "random, 0.75 of the units of 1 x 1 patches"
    assert found["target"] == "raw; each patch normalised by its own statistics: True"
    assert found["size"].startswith("48 x 48 pixels, RGB, 6 x 6 patches of 8 pixels")
    assert found["mean, deviation"] == "0.485, 0.456, 0.406; 0.229, 0.224, 0.225"
    assert f"exported by turbomim {__version__}" in text
    assert 'timm.create_model("local-dir:.", pretrained=True)' in text
    assert "Recipe: no recipe (MAE, raw target); exported" in text
    assert (
        "No evaluation of this run is recorded" in text and "licence of these weights was not stated" in text
    )
    assert "pixmim" not in head["tags"]
    # no log, no recipe, no import
    assert found["recipe"] == "none recorded"
    assert not any(
        word in text for word in ("loss,", "held-out loss", "samples of the data", "began with", "of 7")
    )
    assert "`data.size: 224 -> 48`" in found["settings other than the defaults"]


def test_what_a_log_an_import_and_evaluations_add() -> None:
    trained = make_run("mff")
    run = trained.run
    records = [
        {**RECORD, "heldout_loss": 0.9062},
        {**RECORD, "step": 3, "position": 24, "epoch": 24 / 33, "loss": 0.7501, "window": 1},
        # of a step after the checkpoint's
        {**RECORD, "step": 4, "position": 32, "epoch": 32 / 33, "loss": 0.1111, "replaced_total": 99},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    env = json.loads((run / "env.json").read_text())
    env["command"] = ["/bin/turbomim", "pretrain", "mff-vit-b16-800e", "--data.path", "/data/x"]
    (run / "env.json").write_text(json.dumps(env))
    (run / "import.json").write_text(json.dumps({"file": "/home/me/a.pth", "sha256": "77ff", "from": "mff"}))
    (run / "eval").mkdir()
    (run / "eval" / "knn.json").write_text(json.dumps({**SCORES, "test": "/data/shards/trees/val"}))
    (run / "eval" / "finetune.json").write_text(json.dumps({"top1": 0.8125, "epochs": 5, "lr": 6.25e-05}))
    # of other weights than those that are exported; settings are of a fine-tuning, which made others of them
    others: tuple[dict[str, Any], ...] = ({"weights": "initial"}, {"step": 2}, {"settings": {}})
    for other in others:
        path = run / "eval" / f"finetune-{next(iter(other))}.json"
        path.write_text(json.dumps({"top1": 0.25, "step": 3, **other}))
    text = card_of(trained, license="cc-by-nc-4.0")
    # as the Hub reads accuracies: of the trained encoder alone
    results: Any = ModelCard(text).data
    assert [
        (r.task_name, r.dataset_name, r.metric_type, r.metric_name, r.metric_value)
        for r in results.eval_results
    ] == [
        ("finetune", "not named", "accuracy", "top1", 0.8125),
        ("knn", "trees/val", "accuracy", "class token, 20 neighbours", 0.5),
        ("knn", "trees/val", "accuracy", "class token, weighted", 0.75),
    ]
    assert yaml.safe_load(text.split("---")[1])["license"] == "cc-by-nc-4.0" and "not stated" not in text
    found = rows(text)
    assert found["recipe"] == "mff-vit-b16-800e" and found["method"] == "MFF, raw target"
    assert "Recipe: mff-vit-b16-800e (MFF, raw target); exported" in text
    assert "`data.size: 224 -> 48`" in found["settings other than the recipe's"]
    assert found["began with"].startswith("a.pth (mff), sha256 77ff")
    assert (found["steps"], found["samples of the data"]) == ("3 of 7", "33")
    assert found["training loss, mean of 1 steps up to step 3"] == "0.7501"
    assert found["held-out loss at step 2"] == "0.9062"
    assert found["samples that could not be decoded"] == "5"
    assert "roll-backs" not in found and "0.1111" not in text
    assert "### finetune\n\n- top1: 81.25 %\n- epochs: 5\n- lr: 6.25e-05\n" in text
    assert "| features | 20 neighbours | weighted |\n| --- | ---: | ---: |\n" in text
    assert "| trained: class token | 50.00 % | 75.00 % |\n| raw pixels |  | 25.00 % |\n" in text
    # data sets by name, without anybody's folders
    assert "- train: trees/train\n" in text and "/home" not in text and "/data/" not in text


def test_a_loss_that_is_no_number_is_left_out() -> None:
    trained = make_run("mae")
    run = trained.run
    (run / "metrics.jsonl").write_text(json.dumps({**RECORD, "loss": None}) + "\n")
    assert "training loss" not in card_of(trained)


@pytest.mark.parametrize("to", ["hf", "detectron2", "mmseg", "mae", "mmselfsup", "safetensors"])
def test_every_export_has_a_card(to: str) -> None:
    text = card_of(make_run("mae"), to)
    assert read_by_the_hub(text)["library_name"] in {
        "transformers",
        "detectron2",
        "mmseg",
        "turbomim",
    }
    assert rows(text)["images seen"] == str(POSITION) and "PATH" not in text


@pytest.mark.parametrize(
    ("name", "content"), [("eval/knn.json", "{"), ("eval/knn.json", "[1]"), ("import.json", "\0")]
)
def test_a_damaged_file_is_one_line(
    name: str, content: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = make_run("mae")
    run = trained.run
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(content)
    assert call(monkeypatch, "export", str(run), "--to", "timm") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"turbomim: {run / name} ") and said.endswith("mend it, or remove it\n")
    assert said.count("\n") == 1 and not (run / "export").exists()
    with pytest.raises(UserError):
        export(trained, "timm", Path("out"))


@pytest.mark.parametrize(
    ("kind", "to"),
    [(kind, "timm") for kind in ("pixmim", "mff", "simmim", "swin")] + [("pixmim", "hf"), ("mff", "hf")],
)
def test_the_cards_code_gives_the_feature_of_embed(
    kind: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a photograph that is no square.

    timm's transform and version 4 of transformers resize by Pillow, `embed` by torch: values differ by a grey
    level here and there, features by 0.0005 at most where these are about 1; a squeezed image's by 0.37.
    """
    trained = make_run(kind)
    export(trained, to, Path("out"))
    Path("photos").mkdir()
    # resized, 48 by 86 pixels
    Image.fromarray(texture(3, 77, 138)).save("photos/photo.jpg", quality=90)
    assert call(monkeypatch, "embed", str(trained.run), "photos", "--out", "f.npz", "--device", "cpu") == 0
    (ours_D,) = np.load("f.npz")["features"]
    shutil.copy("photos/photo.jpg", "out")
    monkeypatch.chdir("out")
    space: dict[str, Any] = {}
    exec(snippets(Path("README.md").read_text())[0], space)
    np.testing.assert_allclose(space["feature"][0].numpy(), ours_D, rtol=0, atol=0.005)


def test_a_fine_tuning_names_what_pre_trained_it() -> None:
    """And what is not as published is of the fine-tuning; planted: all settings against the defaults."""
    pretrained = make_run("mae").run
    tuned, _, _ = make_finetuning("mae", pretrained / "eval")
    for_it = {"run": str(pretrained), "step": 3, "encoder": "48 px, patch 8, 48x3, 4 heads", "size": 48}
    (tuned / "result.json").write_text(json.dumps(for_it))
    (exported,) = turbomim.export(tuned, "hf")
    card = (exported.path / "README.md").read_text()
    found = rows(card)
    assert found["pre-trained by"] == "runs/r" and found["recipe of the pre-training"] == "none recorded"
    settings = found["settings other than the published fine-tuning's"]
    assert (
        "`finetune.drop_path: 0.1 -> 0.2`" in settings and "`finetune.test_crop: 0.875 -> 0.75`" in settings
    )
    assert "model." not in settings and "recipe" not in found
    assert "- encoder: pre-trained at 48 px" in card and "one pixel off" in card


def test_settings_with_bars_do_not_break_the_table() -> None:
    trained = make_run("mae")
    (trained.run / "import.json").write_text(json.dumps({"file": "a|b.pth", "sha256": "7", "from": "mae"}))
    (exported,) = export(trained, "timm", Path("out"))
    assert "| began with | a\\|b.pth (mae)" in model_card(exported, trained)
