"""Recipes' sizes against timm's registry and the published counts, and encoders by timm's name.

Planted, each seen to fail the test named: heads of ViT-L set to 12 (`test_sizes_are_timms`); the check of
tensors, of the activation or of the norm left out (`test_encoders_that_are_not_plain_are_refused`); sizes of
the name laid over those given beside it (`test_sizes_beside_the_name_win`).
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import timm
import torch

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.models.mae import MAE
from turbomim.train.models.timm_sizes import PLAIN, encoder_sizes
from turbomim.train.recipes.command_line import parse_config
from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import differences, from_dict, to_dict
from turbomim.train.settings.model import ModelConfig


def sizes(model: ModelConfig) -> dict[str, int]:
    return {"patch": model.patch, "width": model.width, "depth": model.depth, "heads": model.heads}


@pytest.mark.parametrize(
    ("part", "timm_name"),
    [
        ("vit-s16", "vit_small_patch16_224"),
        ("vit-b16", "vit_base_patch16_224"),
        ("vit-l16", "vit_large_patch16_224"),
        ("vit-h14", "vit_huge_patch14_224"),
    ],
)
def test_sizes_are_timms(part: str, timm_name: str) -> None:
    expected = encoder_sizes(timm_name)
    named = [name for name in RECIPES if part in name and name.startswith(("mae-", "pixmim-", "mff-"))]
    assert len(named) >= 2
    for name in named:
        config = recipe(name)
        assert sizes(config.model) == expected, name
        decoder = (384, 8, 12) if part == "vit-s16" else (512, 8, 16)
        model = config.model
        assert (model.decoder_width, model.decoder_depth, model.decoder_heads) == decoder
        assert (config.data.size, model.mask_ratio, model.norm_pix) == (224, 0.75, True)
        assert config.optim.lr == pytest.approx(2.4e-3)


@pytest.mark.parametrize(
    ("name", "count", "keep"),
    [
        ("mae-vit-b16-800e", 111_907_840, 49),
        ("mae-vit-l16-800e", 329_541_888, 49),
        ("mae-vit-h14-800e", 657_074_508, 64),
    ],
)
def test_parameters_are_as_many_as_published(name: str, count: int, keep: int) -> None:
    config = recipe(name)
    with torch.device("meta"):
        model = MAE(config)
    assert sum(p.numel() for p in model.parameters()) == count
    assert config.keep == keep


def test_the_low_pass_of_small_images_blurs_as_many_pixels() -> None:
    """sigma = size / (2 pi radius) pixels: 40 cycles at 224."""
    for name in ("demo", "cifar10-pixmim-vit-t4", "cifar10-pixmim-mff-vit-t4"):
        config = recipe(name)
        assert config.data.size / config.model.radius == pytest.approx(224 / 40, rel=0.01)


def test_cifar_recipes_differ_in_target_and_fusion_alone() -> None:
    changed = differences(recipe("cifar10-vit-t4"), recipe("cifar10-pixmim-vit-t4"))
    assert changed == ["model.target: raw -> gaussian", "optim.decay_tokens: True -> False"]
    fused = differences(recipe("cifar10-pixmim-vit-t4"), recipe("cifar10-pixmim-mff-vit-t4"))
    assert fused == ["model.method: mae -> mff", "model.fuse: 0,2,4,6,8,11 -> 1,2,3,5"]
    assert differences(recipe("cifar10-mff-vit-t4"), recipe("cifar10-pixmim-mff-vit-t4")) == [
        "model.fuse: 0,1,2,3,4,5 -> 1,2,3,5", "model.target: raw -> gaussian"
    ]  # fmt: skip
    tuned = recipe("cifar10-vit-t4-tuned")
    assert sizes(tuned.model) == sizes(recipe("cifar10-vit-t4").model)
    assert tuned.optim.lr == recipe("cifar10-vit-t4").optim.lr == 1e-3
    assert differences(tuned, recipe("cifar10-fast")) == [
        "optim.name: adamw -> muon", "optim.epochs: 8 -> 3.6", "optim.warmup_epochs: 0.8 -> 0.32",
        "optim.base_lr: 0.004 -> 0.016", "optim.ns_steps: 5 -> 3",
    ]  # fmt: skip


def test_an_encoder_by_name_sets_the_sizes() -> None:
    words = ["mae-vit-b16-800e", "--model.encoder", "vit_small_patch16_224"]
    config, _ = parse_config(words)
    assert sizes(config.model) == {"patch": 16, "width": 384, "depth": 12, "heads": 6}
    assert config.model.decoder_width == 512
    assert from_dict(to_dict(config), Config(), "config.yaml") == config
    by_hand, _ = parse_config(["mae-vit-b16-800e", "--model.width", "384", "--model.heads", "6"])
    assert differences(config, by_hand) == []


def test_sizes_beside_the_name_win() -> None:
    words = ["mae-vit-b16-800e", "--model.depth", "3", "--model.encoder", "vit_tiny_patch16_224"]
    config, _ = parse_config(words)
    assert sizes(config.model) == {"patch": 16, "width": 192, "depth": 3, "heads": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_smal_patch16_224",
            "has no ViT 'vit_smal_patch16_224': did you mean vit_small_patch16_224",
        ),
        ("resnet50", "timm has no ViT 'resnet50'"),
        # norm before the blocks; registers; layer scale; SwiGLU; no class token; another activation; RMS norm
        ("vit_base_patch16_clip_224", "not a plain ViT (it has norm_pre"),
        ("vit_base_patch14_reg4_dinov2", "not a plain ViT (it has "),
        ("vit_medium_patch16_gap_256", "not a plain ViT (it "),
        ("vit_giant_patch14_dinov2", "not a plain ViT (it has "),
        ("vit_base_patch16_siglip_224", "not a plain ViT (it "),
        ("vit_giant_patch14_224", "not a plain ViT (blocks.0.mlp.fc1"),
    ],
)
def test_encoders_that_are_not_plain_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        encoder_sizes(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_activation_and_norm_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm has no such name now; what has our tensors and computes something else is not ours."""
    real = timm.create_model
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"act_layer": "relu"}, "mlp.act is ReLU"),
        ({"norm_layer": torch.nn.LayerNorm}, "norm1 is LayerNorm"),
    )
    for change, part in changes:
        monkeypatch.setattr(timm, "create_model", partial(real, **change))
        with pytest.raises(UsageError, match=part):
            encoder_sizes("vit_small_patch16_224")


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_ones_that_are_suggested_are_plain(name: str) -> None:
    found = encoder_sizes(name)
    assert found["width"] % found["heads"] == 0 and found["patch"] == int(name.split("patch")[1][:2])


def test_settings_without_an_encoder_import_no_timm() -> None:
    code = (
        "import sys; from turbomim.train.recipes.command_line import parse_config; parse_config(['demo']); "
        "sys.exit('timm' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
