"""One crop in all of evaluation: the commands, what they record, and what an export tells timm.

Planted, each seen to fail the test named: the run's interpolation or the whole short side in scores while
training, in `embed`, of a folder or of shards, in the test of a fine-tuning, in `analyze robustness`, in what
all share
(`test_every_command_looks_at_the_same_crop`); timm's own statistics and share left to an export
(`test_timms_transform_of_an_export_is_our_crop`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tests.calls import call
from tests.exported import CONFIGS
from tests.runs import config_for, quiet

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding import centre_crops
from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crop
from turbomim.train.encoder.crop import crop_share, scored_crop
from turbomim.train.encoder.features import normalised
from turbomim.train.export.timm import timm_arguments
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, DataConfig


def test_the_share_is_the_published_one() -> None:
    assert [crop_share(size) for size in (32, 63, 64, 192, 224, 225, 448)] == [
        1.0, 1.0, 0.875, 0.875, 0.875, 1.0, 1.0,
    ]  # fmt: skip


def test_stored_pixels_of_the_size_are_left_as_they_are() -> None:
    """CIFAR-10's 32 pixels, whichever interpolation: its scores are of the same images as ever."""
    pixels = texture(1, 32, 32)
    assert np.array_equal(centre_crop(pixels, scored_crop(32)), pixels)
    assert np.array_equal(centre_crop(pixels, CentreCrop(size=32, interpolation="bilinear")), pixels)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[tuple[Any, ...]]]:
    """Sizes, interpolations and shares of the crops made since it was last called."""
    seen: set[tuple[Any, ...]] = set()

    def noted(pixels: Any, crop: CentreCrop) -> Any:
        seen.add((crop.size, crop.interpolation, crop.share))
        return centre_crop(pixels, crop)

    monkeypatch.setattr(centre_crops, "centre_crop", noted)

    def taken() -> set[tuple[Any, ...]]:
        found = seen.copy()
        seen.clear()
        return found

    return taken


def test_every_command_looks_at_the_same_crop(
    trees: Path,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: Callable[[], set[tuple[Any, ...]]],
) -> None:
    """Of a run that trains by bilinear crops of 64 pixels."""
    monkeypatch.chdir(tmp_path)
    rule = {(64, "bicubic", 0.875)}
    config = config_for(
        trees,
        tmp_path,
        data={"size": 64, "interpolation": "bilinear"},
        model={"patch": 16},
        optim={"epochs": 0.2, "warmup_epochs": 0},
        eval={"every_epochs": 1.0, "test": str(trees), "probe": False},
    )
    run = str(pretrain(config, console=quiet()).folder)
    assert asked() == rule
    labelled = ["--train", str(trees), "--test", str(trees)]
    published = ["--recipe", "published", "--epochs", "0.2", "--head-batch", "8", "--json", "out.json"]
    tuning = ["--epochs", "0.2", "--batch", "8", "--step.compile", "false", "--json", "out.json"]
    for words in (
        ["eval", "knn", run, *labelled, "--json", "out.json"],
        # first: features that are kept are not made again
        ["eval", "linear", run, *labelled, *published, "--augment"],
        ["eval", "linear", run, *labelled, *published],
        ["eval", "finetune", run, *labelled, *tuning],
        ["embed", run, str(trees), "--out", "out.npz"],
        ["embed", run, str(photo_folder), "--out", "out.npz"],
    ):
        assert call(monkeypatch, *words) == 0
        assert asked() == rule, words
        if words[0] == "embed":
            with np.load("out.npz") as arrays:
                told = json.loads(str(arrays["made"]))
        else:
            told = json.loads(Path("out.json").read_text())
        assert {(told["size"], told["interpolation"], told["crop"])} == rule
    few = ["--samples", "25", "--test-samples", "8", "--device", "cpu"]
    assert call(monkeypatch, "analyze", "robustness", run, *labelled, *few) == 0
    assert asked() == rule


@pytest.mark.parametrize(("kind", "size"), [("mae", 64), ("simmim", 48), ("swin", 240), ("swinv2", 64)])
def test_timms_transform_of_an_export_is_our_crop(kind: str, size: int) -> None:
    config: Config = replace(CONFIGS[kind], data=DataConfig(size=size))
    if config.model.window * size % 48:
        config = replace(config, model=replace(config.model, window=5))
    encoder = timm.create_model(**timm_arguments(config))
    data: Any = timm.data
    transform = data.create_transform(**data.resolve_model_data_config(encoder))
    image = texture(2, 300, 391)
    theirs = transform(Image.fromarray(image))
    ours = normalised(torch.from_numpy(centre_crop(image, scored_crop(size)))[None])[0]
    # torch's uint8 kernel rounds as Pillow does but for one grey level, over the smallest deviation
    assert theirs.shape == ours.shape and float((theirs - ours).abs().max()) < 1.01 / 255 / 0.224
