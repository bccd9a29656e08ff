"""The exported encoder: timm loads it by the printed call, and its features are ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from turbomim.pipeline.errors import UserError
from turbomim.train.config import IMAGENET_MEAN, IMAGENET_STD, Config, DataConfig, ModelConfig
from turbomim.train.export import check, create_call, export_encoder
from turbomim.train.models.mae import MAE

CONFIG = Config(
    data=DataConfig(size=48),
    model=ModelConfig(
        patch=8, width=48, depth=3, heads=4, decoder_width=32, decoder_depth=1, decoder_heads=2
    ),
)


def test_timm_gives_our_features(tmp_path: Path) -> None:
    model = MAE(CONFIG)
    with torch.no_grad():
        # a trained encoder has biases; without them a swapped norm would go unnoticed
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    path = export_encoder(model, CONFIG, tmp_path)
    encoder = eval(create_call(CONFIG, path), {"timm": timm}).eval()
    images = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    every = torch.arange(36).expand(2, -1).contiguous()
    with torch.no_grad():
        visible, _ = model.patchify(images, every, every)
        ours = model.forward_encoder(visible, every)
        pixels = (images / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        theirs = encoder.forward_features(pixels.permute(0, 3, 1, 2))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_file_holds_the_encoder_only_and_says_how_to_load_it(tmp_path: Path) -> None:
    path = export_encoder(MAE(CONFIG), CONFIG, tmp_path)
    names = set(load_file(path))
    assert not any(name.startswith(("decoder", "mask_token")) for name in names)
    assert {
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.2.mlp.fc2.bias",
        "norm.weight",
    } <= names
    card = json.loads((tmp_path / "encoder.json").read_text())
    assert card["load"] == create_call(CONFIG, path)
    assert card["mean"] == list(IMAGENET_MEAN)


@pytest.mark.parametrize("name", ["vit_base_patch16_224"])
def test_recipe_sizes_have_timms_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        encoder = timm.create_model(name, num_classes=0)
        from test_mae import meta_mae

        ours = meta_mae(Config())
    shapes = {n: t.shape for n, t in ours.state_dict().items() if not n.startswith(("decoder", "mask_token"))}
    assert shapes == {n: t.shape for n, t in encoder.state_dict().items()}


def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = export_encoder(MAE(CONFIG), CONFIG, tmp_path)
    weights = load_file(path)
    del weights["norm.weight"]
    save_file(weights, path)
    with pytest.raises(UserError, match=r"does not take it: .*norm.weight") as error:
        check(path, CONFIG)
    assert "\n" not in str(error.value)
