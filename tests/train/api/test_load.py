"""`turbomim.load`: timm's model of a run, of its exports and of files, that computes what the run computes.

Planted, each seen to fail the test named: weights not loaded, training mode (`test_every_way_is_the_run`);
a squeezed image, 16-bit grey cut off (`test_its_transform_is_the_crop_of_evaluation`); always
ImageNet's mean (`test_its_transform_normalises_as_a_folder_for_timm_says`); no warning
(`test_a_file_that_does_not_tell_its_heads_warns`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.exported import CONFIGS, images, make_run, pixels
from tests.finetuned import NAMES, make_finetuning

import turbomim
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.centre_crops import centre_crop
from turbomim.train.encoder.crop import own_crop, scored_crop
from turbomim.train.encoder.features import normalised

pytestmark = pytest.mark.usefixtures("here")


def claims_nothing(said: dict[str, Any], classes: int) -> None:
    """Not that its weights are the ones that timm has for such a model."""
    assert not [said.get(key) for key in ("url", "hf_hub_id", "tag", "license") if said.get(key)]
    assert said["num_classes"] == classes


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "convmae"])
def test_every_way_is_the_run(kind: str) -> None:
    trained = make_run(kind)
    programs = ("timm", "hf", "mae") if kind in ("mae", "pixmim", "lsmae") else ("timm",)
    written = [turbomim.export(trained.run, to)[0].path for to in programs]  # type: ignore[arg-type]
    with torch.no_grad():
        expected = trained.model.features(images())
        ways: list[Any] = [trained.run, turbomim.Run(trained.run), str(trained.run), *written]
        for way in ways:
            model = turbomim.load(way)
            assert not model.training and next(model.parameters()).dtype == torch.float32
            found = model.forward_features(pixels(images()))
            torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)
            assert model.transform.crop == scored_crop(48)
            claims_nothing(model.pretrained_cfg, 0)
    assert model.num_features == expected.shape[-1]


@pytest.mark.parametrize("kind", ["mff", "simmim", "swin"])
def test_a_fine_tuning_comes_with_its_head(kind: str) -> None:
    folder, config, classifier = make_finetuning(kind, Path("runs"))
    (exported,) = turbomim.export(folder, "timm")
    with torch.no_grad():
        expected = classifier.logits(pixels(images()))
        for way in (folder, exported.path):
            model = turbomim.load(way)
            torch.testing.assert_close(model(pixels(images())), expected, rtol=1e-5, atol=1e-5)
            assert model.transform.crop == own_crop(config)
            assert tuple(model.pretrained_cfg["label_names"]) == NAMES
            claims_nothing(model.pretrained_cfg, len(NAMES))
    with pytest.raises(turbomim.UserError, match="a fine-tuning has its own model"):
        turbomim.load(folder, **{"model.heads": 4})


def test_its_transform_is_the_crop_of_evaluation() -> None:
    """Bit for bit: of a photograph that is no square, of grey, and of 16-bit grey, which is scaled."""
    transform = turbomim.load(make_run("mae").run).transform
    photograph = Image.fromarray(texture(3, 77, 138))
    crop = centre_crop(np.asarray(photograph), scored_crop(48))
    assert torch.equal(transform(photograph), normalised(torch.from_numpy(crop)[None])[0])
    grey = transform(photograph.convert("L"))
    assert grey.shape == (3, 48, 48) and grey.dtype == torch.float32
    deep = Image.fromarray(np.asarray(photograph.convert("L")).astype(np.uint16) * 257)
    torch.testing.assert_close(transform(deep), grey)


def test_its_transform_normalises_as_a_folder_for_timm_says() -> None:
    """As another's encoder that was trained on values from -1 to 1."""
    (exported,) = turbomim.export(make_run("mae").run, "timm")
    about = json.loads((exported.path / "config.json").read_text())
    about["pretrained_cfg"] |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.4, 0.5]}
    (exported.path / "config.json").write_text(json.dumps(about))
    model = turbomim.load(exported.path)
    Path("photos").mkdir()
    Image.fromarray(texture(3, 77, 138)).save("photos/photo.png")
    with torch.no_grad(), Image.open("photos/photo.png") as photograph:
        tokens = model.forward_features(model.transform(photograph)[None])
    mean_D = tokens[0, model.num_prefix_tokens :].mean(0)
    (embedded_D,) = turbomim.embed(model, "photos", device="cpu").features_ND
    np.testing.assert_allclose(mean_D.numpy(), embedded_D, rtol=1e-5, atol=1e-5)


def test_a_file_that_does_not_tell_its_heads_warns() -> None:
    (exported,) = turbomim.export(make_run("mae").run, "timm")
    save_file(load_file(exported.path / "model.safetensors"), "alone.safetensors")
    with pytest.warns(UserWarning, match="does not tell its heads: 1 are assumed"):
        turbomim.load("alone.safetensors")
    model = turbomim.load("alone.safetensors", **{"model.heads": 4})
    assert model.blocks[0].attn.num_heads == 4


def test_what_cannot_be_loaded_is_one_line() -> None:
    run = make_run("convmae").run
    for source, settings, words in (
        (run, {}, "timm has no model of method convmae: turbomim.embed takes the run itself"),
        ("nowhere", {}, "nowhere is not a run"),
        (turbomim.export(run, "safetensors")[0].path, {}, "convmae"),
        (run, {"model.heads": 4}, "model.heads: a run has its own model"),
        (run, {"heads": 4}, "did you mean"),
    ):
        with pytest.raises(turbomim.UserError, match=words) as error:
            turbomim.load(source, **settings)
        assert "\n" not in str(error.value)
    Path("broken").mkdir()
    Path("broken/config.json").write_text('{"architecture": "vit_no_such"}')
    with pytest.raises(turbomim.UserError, match=r"broken: timm .* does not take it: Unknown model"):
        turbomim.load("broken")
