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
from turbomim.train.settings.config import IMAGENET_MEAN, Config

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "convmae"])
def test_timm_gives_our_features(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = make_run(name)
    run, config, model = trained.run, trained.config, trained.model
    folder = run / "export" / "timm"
    (exported,) = export(trained, "timm", folder)
    assert exported.checked.startswith(f"timm {timm.__version__}: features of 3 random images are this run's")
    absolute = "pos_embed" in model.state_dict()
    text = (folder / "README.md").read_text()
    assert absolute == ("timm itself resizes positions otherwise, with antialiasing" in text)
    images = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        ours = model.features(images)
    card = json.loads((folder / "encoder.json").read_text())
    assert "/" not in card["load"], "the path of the machine that exported is nobody's business"
    # from anywhere, and from the folder
    encoders = [timm.create_model(**card["timm"], checkpoint_path=str(exported.path))]
    monkeypatch.chdir(folder)
    encoders.append(eval(card["load"], {"timm": timm}))
    space: dict[str, Any] = {}
    exec(snippets(Path("README.md").read_text())[0], space)
    for encoder in [*encoders, space["encoder"]]:
        with torch.no_grad():
            theirs = encoder.eval().forward_features(pixels(images)).reshape(ours.shape)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert card["mean"] == list(IMAGENET_MEAN) and card["method"] == config.model.method


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
        (larger, "does not take it: .*pos_embed"),
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
    assert set(load_file(folder / "encoder.safetensors")) >= {"cls_token", "norm.weight"}
