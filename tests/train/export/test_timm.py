"""timm loads every encoder that it has a model of, by the call in the card, and gives the run's features.

Planted, each seen to fail the test named: a Beit without the shared table, a SwinV2 by Swin's name, the
card's call with a path that is gone (`test_timm_gives_our_features`); 224 pixels whatever the run's, Beit's
own tables left on (`test_every_recipe_has_timms_names_and_shapes`); differences not looked at, files
written where they end before they are checked (`test_what_timm_does_not_take_changes_nothing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.exported import CONFIGS, make_run, pixels, snippets
from torch import Tensor

from turbomim.pipeline.system.errors import UserError
from turbomim.train.export import timm as export_timm
from turbomim.train.export.programs import export
from turbomim.train.export.timm import TIMM_NAMES, timm_arguments
from turbomim.train.export.weights import encoder_weights
from turbomim.train.models.methods import make_model
from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "convmae"])
def test_timm_gives_our_features(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = make_run(name)
    run, config, model = trained.run, trained.config, trained.model
    folder = run / "export"
    (exported,) = export(trained, "timm", folder)
    assert exported.checked.startswith(f"timm {timm.__version__}: features of 3 random images are this run's")
    absolute = "pos_embed" in model.state_dict()
    text = (folder / "README.md").read_text()
    assert absolute == ("timm itself resizes positions otherwise, with antialiasing" in text)
    images = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        ours = model.features(images)
    about = json.loads((folder / "config.json").read_text())
    assert about["method"] == config.model.method and about["heads"] == config.model.heads
    encoders = [timm.create_model(f"local-dir:{folder}", pretrained=True)]
    timm_data: Any = timm.data
    assert timm_data.resolve_model_data_config(encoders[0]) == {
        "input_size": (3, 48, 48), "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), "crop_pct": 1.0,
        "crop_mode": "center", "interpolation": "bicubic",
    }  # fmt: skip
    # with a new head, as timm's own training asks for one
    tuned = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(tuned.state_dict()[name], tensor) for name, tensor in weights.items())
    assert tuned(pixels(images)).shape[-1] == 7
    # from the folder, by what its card says
    monkeypatch.chdir(folder)
    Image.new("RGB", (60, 50)).save("photo.jpg")
    space: dict[str, Any] = {}
    exec(snippets(Path("README.md").read_text())[0], space)
    for encoder in [*encoders, space["model"]]:
        with torch.no_grad():
            theirs = encoder.eval().forward_features(pixels(images)).reshape(ours.shape)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def encoders() -> dict[str, Config]:
    """One recipe of every encoder that timm has."""
    found = {}
    for name in RECIPES:
        config = recipe(name)
        if config.model.method in TIMM_NAMES:
            found[str(timm_arguments(config))] = name
    return {name: recipe(name) for name in found.values()}


@pytest.mark.parametrize("name", encoders())
def test_every_recipe_has_timms_names_and_shapes(name: str) -> None:
    config = recipe(name)
    with torch.device("meta"):
        ours = make_model(config)
        theirs = timm.create_model(**timm_arguments(config))
    shapes = {n: tuple(t.shape) for n, t in ours.state_dict().items() if not n.startswith(ours.decoder_names)}
    assert shapes == {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    if name.startswith("lsmae"):
        assert shapes["pos_embed"] == (1, 785, config.model.width)


def without(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name != "norm.weight"}


def swapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    one, other = "blocks.0.norm1.weight", "blocks.0.norm2.weight"
    return weights | {one: weights[other], other: weights[one]}


def larger(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {"pos_embed": torch.zeros(1, 50, 48)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "does not take it: .*norm.weight"),
        # timm resizes positions
        (larger, "features of 3 random images differ from this run's by .*: nothing was exported"),
        (swapped, "features of 3 random images differ from this run's by .*: nothing was exported"),
    ],
)
def test_what_timm_does_not_take_changes_nothing(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make_run("mae")
    folder = trained.run / "export"
    export(trained, "timm", folder)
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    monkeypatch.setattr(export_timm, "encoder_weights", lambda model: change(encoder_weights(model)))
    with pytest.raises(UserError, match=message) as error:
        export(trained, "timm", folder)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in folder.rglob("*")}
    assert set(load_file(folder / "model.safetensors")) >= {"cls_token", "norm.weight"}
