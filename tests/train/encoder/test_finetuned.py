"""A fine-tuned encoder gives the features that its head reads, wherever features are asked for.

Planted, each seen to fail the test named: the head's norm left out of the pooled feature
(`test_the_feature_is_what_the_head_reads`); a fine-tuned encoder resized as a pre-trained one, which brings
the final norm back (`test_another_size_keeps_the_head_s_norm`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.calls import assert_one_line, call
from tests.exported import images, make_run, pixels
from tests.finetuned import NAMES, make_finetuning

import turbomim
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.features import MEAN, encode, load_finetuned
from turbomim.train.encoder.resize import resample_positions
from turbomim.train.encoder.source import load_source
from turbomim.train.folder.class_names import read_class_names, write_class_names
from turbomim.train.models.classifier import Classifier

pytestmark = pytest.mark.usefixtures("here")
METHODS = ["mae", "mff", "convmae", "simmim", "swin", "swinv2"]


@pytest.mark.parametrize("kind", METHODS)
def test_the_feature_is_what_the_head_reads(kind: str) -> None:
    run, _, model = make_finetuning(kind, Path("runs/r/eval"))
    source = load_source(run, {})
    assert source.facts["weights"] == "fine-tuned" and source.step == 3
    features = encode(source.model.eval(), images())
    assert list(features) == [MEAN]
    with torch.no_grad():
        found_BK = model.head(features[MEAN])
        torch.testing.assert_close(found_BK, model.logits(pixels(images())), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["mae", "simmim"])
def test_another_size_keeps_the_head_s_norm(kind: str) -> None:
    run, _, model = make_finetuning(kind, Path("runs/r/eval"))
    found = load_source(run, {}).at_size(64).model
    assert isinstance(found, Classifier) and isinstance(found.encoder.norm, torch.nn.Identity)
    ours, theirs = model.state_dict(), found.state_dict()
    assert ours.keys() == theirs.keys()
    moved = {name for name in ours if "pos_embed" in name or "relative_position" in name}
    assert moved and all(torch.equal(ours[name], theirs[name]) for name in ours if name not in moved)
    if kind == "mae":
        assert torch.equal(theirs["encoder.pos_embed"], resample_positions(ours["encoder.pos_embed"], 8))


def test_it_is_scored_as_any_encoder(
    tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = make_finetuning("mae", Path("runs/r/eval"))
    shards = str(tiny_split.folder)
    splits = ["--train", shards, "--test", shards]
    assert call(monkeypatch, "eval", "knn", str(run), *splits, "--size", "32") == 0
    result = json.loads((run / "eval" / "knn.json").read_text())
    assert result["weights"] == "fine-tuned" and f"trained: {MEAN}" in result["scores"]
    # the same is read of random weights
    assert f"random weights: {MEAN}" in result["scores"] and len(result["scores"]) == 3
    words = ["--recipe", "published", "--head-batch", "16", "--epochs", "1"]
    assert call(monkeypatch, "eval", "linear", str(run), *splits, *words) == 0
    assert json.loads((run / "eval" / "linear-published.json").read_text())["feature"] == MEAN
    assert call(monkeypatch, "analyze", "frequency", str(run), "--data", shards, "--images", "4") == 0
    found = json.loads((run / "analysis" / "frequency.json").read_text())["results"]
    assert len(found[str(run)]["blocks"]) == 3
    capsys.readouterr()


@pytest.mark.parametrize("given", ["folder", "export", "in memory"])
def test_the_rows_are_what_predict_tells_classes_by(given: str, photo_folder: Path) -> None:
    """Of 48 pixels evaluation crops all, this fine-tuning 0.75: planted, the crop of evaluation."""
    run, _, model = make_finetuning("mae", Path("runs/r/eval"))
    source: Any = run
    if given != "folder":
        source = turbomim.export(run, "timm")[0].path if given == "export" else turbomim.load(run)
    found = turbomim.embed(source, photo_folder, "F.npz")
    with torch.no_grad():
        shares_BK = model.head(torch.from_numpy(found.features_ND)).softmax(1)
    top_BK = turbomim.predict(run, photo_folder).probabilities_NK
    torch.testing.assert_close(
        shares_BK.sort(descending=True).values, torch.from_numpy(top_BK), rtol=0, atol=1e-5
    )
    with np.load("F.npz") as file:
        assert json.loads(str(file["made"]))["crop"] == 0.75


def test_what_needs_a_pre_training_says_so(
    tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = make_finetuning("mae", Path("runs/r/eval"))
    shards = str(tiny_split.folder)
    splits = ["--train", shards, "--test", shards]
    assert call(monkeypatch, "eval", "finetune", str(run), *splits) == 1
    assert_one_line(capsys, "is a fine-tuning, not a pre-training: give the run that it began from")
    assert call(monkeypatch, "analyze", "flatness", str(run), "--data", shards, "--images", "8") == 1
    assert_one_line(capsys, "is a fine-tuning, not a pre-training")
    assert call(monkeypatch, "embed", str(run), shards, "--out", "F.npz", "--pool", "cls") == 2
    assert_one_line(capsys, "--pool cls", "its class token learned nothing", "--pool mean")
    with pytest.raises(UserError, match="runs/p is no fine-tuning, it has no head"):
        load_finetuned(make_run("mae", "p").run)


def test_class_names_are_kept(tiny_split: Split) -> None:
    run, config, _ = make_finetuning("mae", Path("runs/r/eval"))
    assert read_class_names(run, config) == NAMES
    assert "Björk" in (run / "classes.json").read_text(encoding="utf-8")
    write_class_names(run, NAMES[:2])
    assert read_class_names(run, config) == (*NAMES[:2], "2")
    write_class_names(run, (*NAMES, "dogwood"))
    with pytest.raises(UserError, match=r"has 4 names, the head 3 outputs"):
        read_class_names(run, config)
    (run / "classes.json").write_text("{}")
    with pytest.raises(UserError, match="is no list of names"):
        read_class_names(run, config)
    # of an older fine-tuning
    (run / "classes.json").unlink()
    assert read_class_names(run, config) == ("0", "1", "2")
    object.__setattr__(config.data, "path", str(tiny_split.folder))
    assert read_class_names(run, config) == tiny_split.manifest.classes
