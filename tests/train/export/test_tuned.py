"""Fine-tunings with their heads in timm and in transformers: the same logits, classes and crops.

Planted, each seen to fail the test named: biases of keys given to values, the head's norm left where it is,
positions left out of BEiT, the crop of evaluation for the fine-tuning's (`test_logits_are_those_of_theirs`);
names in the order of the alphabet (`test_from_photographs_to_predictions`).
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from tests.calls import assert_one_line, call
from tests.exported import images, pixels
from tests.finetuned import NAMES, make_finetuning
from tests.runs import config_for, quiet

import turbomim
from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crop
from turbomim.pipeline.tars.split import Split
from turbomim.train.pretrain.pretrain import pretrain

pytestmark = pytest.mark.usefixtures("here")


def in_timm(folder: Path) -> Any:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        ("mae", "timm"), ("mff", "timm"), ("simmim", "timm"), ("swin", "timm"), ("swinv2", "timm"),
        ("mae", "hf"), ("mff", "hf"), ("simmim", "hf"),
    ],
)  # fmt: skip
def test_logits_are_those_of_theirs(
    kind: str, to: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, model = make_finetuning(kind, Path("runs/r/eval"))
    with torch.no_grad():
        expected_BK = model.logits(pixels(images()))
    assert call(monkeypatch, "export", str(run), "--to", to, "--out", "out") == 0
    said = capsys.readouterr().out
    assert said.startswith("out: step 3; ") and "logits of 3 random images are this run's" in said
    with torch.no_grad():
        if to == "timm":
            theirs = in_timm(Path("out"))
            found_BK = theirs(pixels(images()))
            about = theirs.pretrained_cfg
            assert about["label_names"] == [*NAMES] and about["num_classes"] == 3
            assert (about["crop_pct"], about["interpolation"]) == (0.75, "bicubic")
        else:
            # its classes have no annotations
            transformers: Any = import_module("transformers")
            theirs = transformers.AutoModelForImageClassification.from_pretrained("out").eval()
            found_BK = theirs(pixels(images())).logits
            assert theirs.config.id2label == dict(enumerate(NAMES))
            processor = transformers.AutoImageProcessor.from_pretrained("out")
            assert processor.size["shortest_edge"] == 64 and processor.crop_size["height"] == 48
    torch.testing.assert_close(found_BK, expected_BK, rtol=0, atol=1e-5)
    assert float(expected_BK.std()) > 1e-2, "something to compare"
    assert "Björk" in Path("out/config.json").read_text(encoding="utf-8")
    card = Path("out/README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["pipeline_tag"] == "image-classification"
    assert "it tells 3 classes, ash, Björk, white, cedar" in card and "short side to 64 (bicubic)" in card


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_a_class_whose_name_is_no_utf_8(to: Any) -> None:
    """The name of a folder is bytes.  Planted, and seen to fail: a card in strict UTF-8."""
    run, _, _ = make_finetuning("mae", Path("runs/r/eval"))
    (run / "classes.json").write_text(json.dumps(["ash", os.fsdecode(b"caf\xe9"), "cedar"]))
    turbomim.export(run, to, out="out")
    assert r"ash, caf\udce9, cedar" in Path("out/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "to", "message"),
    [
        ("convmae", "timm", "timm has no model of method convmae with a head: turbomim predict"),
        ("swin", "hf", "hf has no model of method simmim-swin with a head: give --to timm"),
        (
            "mae",
            "mmseg",
            "--to mmseg is for pre-trainings: give --to timm|hf for it with its head, or the run",
        ),
    ],
)
def test_what_has_no_such_head_is_named(
    kind: str, to: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = make_finetuning(kind, Path("runs/r/eval"))
    assert call(monkeypatch, "export", str(run), "--to", to, "--out", "out") == 1
    assert_one_line(capsys, message)
    assert not Path("out").exists()


def test_from_photographs_to_predictions(
    photo_folder: Path, tiny_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-train, fine-tune, export, load by timm: the probabilities of `predict`, and the accuracy."""
    shards = str(tiny_split.folder)
    run = pretrain(config_for(tiny_split.folder, Path("runs"), optim={"epochs": 1}), console=quiet()).folder
    splits = ["--train", shards, "--test", shards, "--epochs", "2", "--batch", "8"]
    small = ["--step.compile", "false", "--finetune.head_std", "0.02", "--base-lr", "0.05"]
    assert call(monkeypatch, "eval", "finetune", str(run), *splits, *small) == 0
    tuned = run / "eval" / "finetune"
    found = turbomim.predict(tuned, photo_folder)
    assert found.top1 == pytest.approx(json.loads((tuned / "result.json").read_text())["top1"])
    assert call(monkeypatch, "export", str(tuned), "--to", "timm") == 0
    results: Any = ModelCard.load(tuned / "export" / "README.md").data
    assert [r.metric_value for r in results.eval_results if r.metric_name == "top1"] == [
        pytest.approx(found.top1)
    ]
    model = in_timm(tuned / "export")
    data: Any = timm.data
    transform = data.create_transform(**data.resolve_model_data_config(model))
    assert [model.pretrained_cfg["label_names"][place] for place in found.top_NK[0]] == found.names[0]
    for key, row, shares in zip(found.keys, found.top_NK, found.probabilities_NK, strict=True):
        with Image.open(photo_folder / key) as image, torch.no_grad():
            rgb = image.convert("RGB")
            ours = torch.from_numpy(centre_crop(np.asarray(rgb), CentreCrop(size=32)))[None]
            same, near = (model(x).softmax(1)[0, row].numpy() for x in (pixels(ours), transform(rgb)[None]))
        np.testing.assert_allclose(same, shares, rtol=0, atol=1e-5, err_msg=key)
        # a resize that rounds by a grey level
        np.testing.assert_allclose(near, shares, rtol=0, atol=0.02, err_msg=key)
