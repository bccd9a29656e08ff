"""`turbomim.embed`: what the command writes, in memory, and the same of a timm model.

Planted, each seen to fail the test named: the mean of all tokens, a deviation of 0.5, a fine-tuned model
without its head's norm (`test_a_timm_model_has_the_features_of_its_run`); images in float32 for a model in
another type, and its mean for the head's norm (`test_a_model_of_any_floating_type_is_embedded`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from tests.exported import make_run
from tests.finetuned import make_finetuning
from torch import nn

import turbomim
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import scored_crop
from turbomim.train.encoder.features import normalised
from turbomim.train.export.timm import timm_arguments

pytestmark = pytest.mark.usefixtures("here")

TUNED = "mae tuned"


def in_timm(kind: str) -> tuple[Path, nn.Module]:
    """A run, or fine-tuning, of a kind and its encoder in timm's own class."""
    name, _, tuned = kind.partition(" ")
    run = make_run(name)
    arguments, weights = timm_arguments(run.config), run.model.state_dict()
    folder = run.run
    if tuned:
        folder, _, model = make_finetuning(name, Path("runs/r/eval"))
        arguments |= {"num_classes": 3, "global_pool": "avg"}
        weights = {key.removeprefix("encoder."): value for key, value in model.state_dict().items()}
    theirs = timm.create_model(**arguments)
    theirs.load_state_dict({key: weights[key] for key in theirs.state_dict()})
    if tuned:
        # its own crop
        theirs.transform = turbomim.load(folder).transform
    return folder, theirs


@pytest.mark.parametrize(
    ("kind", "pool"),
    [("mae", "mean"), ("mae", "cls"), ("mff", "mean"), ("simmim", "mean"), ("swin", "mean"), (TUNED, "mean")],
)
def test_a_timm_model_has_the_features_of_its_run(kind: str, pool: str, photo_folder: Path) -> None:
    folder, theirs = in_timm(kind)
    theirs.train()
    theirs.get_submodule("blocks" if hasattr(theirs, "blocks") else "layers").eval()
    modes = [part.training for part in theirs.modules()]
    ours = turbomim.embed(folder, photo_folder, pool=pool)  # type: ignore[arg-type]
    found = turbomim.embed(theirs, photo_folder, pool=pool)  # type: ignore[arg-type]
    assert [part.training for part in theirs.modules()] == modes and theirs.training, "left as they were"
    assert found.keys == ours.keys and found.classes == ours.classes == ("ash", "birch", "cedar")
    assert found.features_ND.dtype == np.float32
    np.testing.assert_allclose(found.features_ND, ours.features_ND, rtol=0, atol=1e-5)
    assert np.array_equal(found.labels_N, ours.labels_N)


@pytest.mark.parametrize("kind", ["mae", TUNED])
@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.1), (torch.half, 0.02), (torch.double, 1e-5)])
def test_a_model_of_any_floating_type_is_embedded(
    kind: str, dtype: torch.dtype, near: float, photo_folder: Path
) -> None:
    folder, theirs = in_timm(kind)
    found = turbomim.embed(theirs.to(dtype), photo_folder).features_ND
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, turbomim.embed(folder, photo_folder).features_ND, rtol=0, atol=near)


def test_it_returns_what_it_writes(tiny_split: Split, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("mae").run
    made = turbomim.embed(turbomim.Run(run), tiny_split.folder, "out/f.npz", size=32, batch=7)
    with np.load("out/f.npz") as file:
        assert np.array_equal(file["features"], made.features_ND) and file["keys"].tolist() == made.keys
    count, width = made.features_ND.shape
    assert repr(made).startswith(f"turbomim.Embedded: {count} images, 0 left out, {width} features, mean")
    assert turbomim.Run(run) == turbomim.Run(Path(run).resolve()) != run
    assert len({turbomim.Run(run), turbomim.Run(Path(run).resolve())}) == 1
    assert not made.left_out and made.feature == "mean of patch tokens"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "test_efficientnet"])
def test_a_map_is_pooled_over_its_places(name: str, photo_folder: Path) -> None:
    model: Any = timm.create_model(name).eval()
    features_ND = turbomim.embed(model, photo_folder).features_ND
    size = model.pretrained_cfg["input_size"][-1]
    (crops,) = turbomim.centre_crops(photo_folder, size=size, share=scored_crop(size).share)
    with torch.no_grad():
        maps = model.forward_features(
            normalised(crops.images_BHWC, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
        )
    np.testing.assert_allclose(features_ND, maps.mean((2, 3)).numpy(), rtol=0, atol=1e-5)


def test_what_is_neither_tokens_nor_a_map_is_refused(photo_folder: Path) -> None:
    model: Any = timm.create_model("test_convnext").eval()
    model.num_features = 7
    with pytest.raises(
        turbomim.UserError, match=r"ConvNeXt: its forward_features gives .* num_features = 7 "
    ):
        turbomim.embed(model, photo_folder)


def test_what_cannot_be_embedded(photo_folder: Path) -> None:
    _, tuned = in_timm(TUNED)
    with pytest.raises(turbomim.UserError, match='pool "cls" of VisionTransformer: its head reads the patch'):
        turbomim.embed(tuned, photo_folder, pool="cls")
    with pytest.raises(turbomim.UserError, match="set_input_size"):
        turbomim.embed(tuned, photo_folder, size=32)
    with pytest.raises(turbomim.UserError, match="Linear is no timm model"):
        turbomim.embed(torch.nn.Linear(2, 2), photo_folder)
    run = make_run("mae", "s").run
    with pytest.raises(turbomim.UserError, match="pool 'max': must be one of mean, cls"):
        turbomim.embed(run, photo_folder, pool="max")  # type: ignore[arg-type]
    with pytest.raises(turbomim.UserError, match="device = 'gpu': must be auto, cpu, cuda or cuda:NUMBER"):
        turbomim.embed(run, photo_folder, device="gpu")  # type: ignore[arg-type]
    with pytest.raises(turbomim.UserError, match="batch = many: must be a whole number"):
        turbomim.embed(run, photo_folder, batch="many")  # type: ignore[arg-type]
