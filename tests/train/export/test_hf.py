"""transformers loads the folders by `from_pretrained` and computes what the run computes.

Planted, each seen to fail the test named: queries and keys exchanged, another mean, 2 heads
(`test_the_encoder_is_a_vit_model`); `norm_pix_loss` always false, a place for the decoder's class token
(`test_the_whole_mae_gives_our_loss`); an eps of 1e-12, version 5's own names
(`test_names_on_disk_are_the_published_ones`); missing names, or outputs, not looked at
(`test_a_tensor_too_few_or_wrong_is_refused`); transformers asked though it is not there
(`test_without_transformers_it_is_written_and_says_so`).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests.exported import images, make_run, pixels
from torch import Tensor

from turbomim.pipeline.decoding.centre_crops import centre_crop
from turbomim.pipeline.decoding.resize import resize
from turbomim.pipeline.system.errors import UserError
from turbomim.train.encoder.crop import scored_crop
from turbomim.train.export import hf as export_hf
from turbomim.train.export.hf import processor_config
from turbomim.train.export.programs import export
from turbomim.train.export.weights import write_weights
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config

pytestmark = pytest.mark.usefixtures("here")


def load(kind: Any, folder: str) -> Any:
    """What transformers makes of a folder, nothing missing and nothing left over."""
    model, found = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    return model.eval()


@pytest.mark.parametrize("name", ["mae", "pixmim", "lsmae", "mff"])
def test_the_encoder_is_a_vit_model(name: str) -> None:
    trained = make_run(name)
    model = trained.model
    exported = export(trained, "hf", Path("out"))
    assert [e.path for e in exported] == [Path("out"), Path("out/mae")][: 1 + (name != "mff")]
    for each in exported:
        assert f"transformers {transformers.__version__}: " in each.checked
    encoder = load(transformers.AutoModel, "out")
    processors: Any = transformers.AutoImageProcessor
    processor = processors.from_pretrained("out")
    inputs = processor(images=list(images().numpy()), return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], pixels(images()), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        theirs = encoder(**inputs)
        torch.testing.assert_close(model.features(images()), theirs.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs.pooler_output, theirs.last_hidden_state[:, 0].tanh())


@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_whole_mae_gives_our_loss(norm_pix: bool) -> None:
    trained = make_run("mae")
    config, model = trained.config, trained.model
    model.target = dataclasses.replace(model.target, norm_pix=norm_pix)
    exported = export(dataclasses.replace(trained, config=with_norm_pix(config, norm_pix)), "hf", Path("out"))
    assert "predicted patches of 3 random images are this run's" in exported[1].checked
    theirs = load(transformers.ViTMAEForPreTraining, "out/mae")
    assert theirs.config.norm_pix_loss is norm_pix and theirs.config.mask_ratio == 0.75
    noise = torch.rand(2, config.patches, generator=torch.Generator().manual_seed(2))
    order = noise.argsort(1)
    keep, mask = order[:, : config.keep].contiguous(), order[:, config.keep :].contiguous()
    zeros = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        ours = model(images(), zeros, zeros, keep, mask)
        loss = theirs(pixels(images()), noise=noise).loss
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=1e-6)


def with_norm_pix(config: Config, norm_pix: bool) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, norm_pix=norm_pix))


def block(name: str, d: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a block of width d, written out by hand."""
    return {
        f"{name}.attention.attention.query.weight": (d, d),
        f"{name}.attention.attention.query.bias": (d,),
        f"{name}.attention.attention.key.weight": (d, d),
        f"{name}.attention.attention.key.bias": (d,),
        f"{name}.attention.attention.value.weight": (d, d),
        f"{name}.attention.attention.value.bias": (d,),
        f"{name}.attention.output.dense.weight": (d, d),
        f"{name}.attention.output.dense.bias": (d,),
        f"{name}.intermediate.dense.weight": (4 * d, d),
        f"{name}.intermediate.dense.bias": (4 * d,),
        f"{name}.output.dense.weight": (d, 4 * d),
        f"{name}.output.dense.bias": (d,),
        f"{name}.layernorm_before.weight": (d,),
        f"{name}.layernorm_before.bias": (d,),
        f"{name}.layernorm_after.weight": (d,),
        f"{name}.layernorm_after.bias": (d,),
    }


# those of google/vit-base-patch16-224 and facebook/vit-mae-base, which every version of transformers reads
ENCODER: dict[str, tuple[int, ...]] = {
    "embeddings.cls_token": (1, 1, 48),
    "embeddings.position_embeddings": (1, 37, 48),
    "embeddings.patch_embeddings.projection.weight": (48, 3, 8, 8),
    "embeddings.patch_embeddings.projection.bias": (48,),
    **block("encoder.layer.0", 48),
    **block("encoder.layer.1", 48),
    **block("encoder.layer.2", 48),
    "layernorm.weight": (48,),
    "layernorm.bias": (48,),
}
POOLER: dict[str, tuple[int, ...]] = {"pooler.dense.weight": (48, 48), "pooler.dense.bias": (48,)}
WHOLE: dict[str, tuple[int, ...]] = {
    **{f"vit.{name}": shape for name, shape in ENCODER.items()},
    "decoder.mask_token": (1, 1, 32),
    "decoder.decoder_pos_embed": (1, 37, 32),
    "decoder.decoder_embed.weight": (32, 48),
    "decoder.decoder_embed.bias": (32,),
    **block("decoder.decoder_layers.0", 32),
    **block("decoder.decoder_layers.1", 32),
    "decoder.decoder_norm.weight": (32,),
    "decoder.decoder_norm.bias": (32,),
    "decoder.decoder_pred.weight": (192, 32),
    "decoder.decoder_pred.bias": (192,),
}


def test_names_on_disk_are_the_published_ones() -> None:
    """Whatever version is installed here; and the configuration alone builds a model of these shapes."""
    export(make_run("mae"), "hf", Path("out"))
    kinds: Any = transformers
    for folder, expected, kind in (
        (".", ENCODER | POOLER, kinds.ViTModel),
        ("mae", WHOLE, kinds.ViTMAEForPreTraining),
    ):
        found = {n: tuple(t.shape) for n, t in load_file(f"out/{folder}/model.safetensors").items()}
        assert found == expected
        about = transformers.AutoConfig.from_pretrained(f"out/{folder}")
        assert about.layer_norm_eps == 1e-6 and about.image_size == 48
        # the names of a model in memory are those of its version
        built = sorted(tuple(t.shape) for t in kind(about).state_dict().values())
        assert built == sorted(expected.values())
    names = {path.name for path in Path("out/mae").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.mark.parametrize("size", [48, 136, 224])
@pytest.mark.parametrize("sides", [(60, 90), (333, 500), (256, 263), (96, 98), (37, 40)])
def test_the_processor_takes_the_crop_of_evaluation(size: int, sides: tuple[int, int]) -> None:
    """To two grey levels: version 4 resizes by Pillow, version 5 and evaluation by torch.

    Where the resized image is 3, 7, 11, ... pixels longer than the crop, torchvision rounds the half of it to
    even, which is up, and transformers down.
    """
    trained = make_run("mae")
    config = dataclasses.replace(trained.config, data=dataclasses.replace(trained.config.data, size=size))
    about = processor_config(config)
    Path("preprocessor_config.json").write_text(json.dumps(about))
    processors: Any = transformers.AutoImageProcessor
    # smooth, so that a shift by a pixel is told from a rounding, yet no part is like another
    y, x = np.mgrid[: sides[0], : sides[1]] / max(sides)
    image_HWC = np.stack([255 * y, 255 * x, 127 + 127 * np.sin(9 * x + 5 * y)], axis=2).astype(np.uint8)
    values_CHW = processors.from_pretrained(".")(images=image_HWC, return_tensors="pt")["pixel_values"][0]
    found_HWC = 255 * (values_CHW.permute(1, 2, 0) * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN))
    resized = resize(image_HWC, *resized_shape(sides, about["size"]["shortest_edge"]), "bicubic")
    top, left = ((side - size) // 2 for side in resized.shape[:2])
    expected_HWC = torch.from_numpy(resized[top : top + size, left : left + size]).float()
    torch.testing.assert_close(found_HWC, expected_HWC, rtol=0, atol=2.01)
    ours_HWC = torch.from_numpy(centre_crop(image_HWC, scored_crop(size))).float()
    beside = any((side - size) % 4 == 3 for side in resized.shape[:2])
    assert torch.equal(ours_HWC, expected_HWC) != beside


def resized_shape(sides: tuple[int, int], short: int) -> tuple[int, int]:
    """The short side as it must be, the long one in proportion, rounded down."""
    height, width = (short * side // min(sides) for side in sides)
    return height, width


def test_a_tensor_too_few_or_wrong_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = make_run("mae")

    def lossy(path: Path, weights: dict[str, Tensor]) -> None:
        write_weights(path, {n: t for n, t in weights.items() if "layernorm.bias" not in n})

    def swapping(path: Path, weights: dict[str, Tensor]) -> None:
        key, value = (
            "encoder.layer.0.attention.attention.key.bias",
            "encoder.layer.0.attention.attention.value.bias",
        )
        write_weights(
            path, {**weights, key: weights[value], value: weights[key]} if key in weights else weights
        )

    for change_of, message in (
        (lossy, "does not take all of it: .*layernorm.bias"),
        (swapping, "differ from"),
    ):
        monkeypatch.setattr(export_hf, "write_weights", change_of)
        with pytest.raises(UserError, match=message):
            export(trained, "hf", Path("out"))
        assert not Path("out").exists()


def test_without_transformers_it_is_written_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = make_run("mff")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (exported,) = export(trained, "hf", Path("out"))
    assert "transformers is not installed, so nothing was checked" in exported.checked
    assert json.loads(Path("out/config.json").read_text())["model_type"] == "vit"
