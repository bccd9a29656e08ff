"""Recipes of ConvMAE and FastConvMAE."""

from collections.abc import Callable

from turbomim.train.recipes.published import published_run
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig


def convmae_b_1600e() -> Config:
    """ConvMAE-B, 1600 epochs.  24 GPUs: 3 nodes of 8, 128 images each.

    Source: ConvMAE's PRETRAIN.md; its author says that the released weights had a batch of 2048.
    Published with those: fine-tune 85.0, linear 70.9, COCO Mask R-CNN 53.2 / 47.1, ADE20K 51.7.
    """
    return Config(
        data=DataConfig(crop="rrc", rrc_scale=0.2),
        model=ModelConfig(method="convmae", depth=11),
        optim=OptimConfig(epochs=1600, warmup_epochs=40, global_batch=3072),
        run=published_run("convmae-b-1600e"),
    )


def convmae_pixmim_b_800e() -> Config:
    """PixMIM on ConvMAE-B, 800 epochs: simple resized crop and Gaussian target.  24 GPUs.

    Source: the rates of ConvMAE's PRETRAIN.md with PixMIM's crop, a smooth low-pass in place of its disc, and
    fewer epochs; no published result.
    """
    return Config(
        data=DataConfig(crop="src", interpolation="bilinear"),
        model=ModelConfig(method="convmae", depth=11, target="gaussian"),
        optim=OptimConfig(epochs=800, warmup_epochs=40, global_batch=3072),
        run=published_run("convmae-pixmim-b-800e"),
    )


def fastconvmae_b_50e() -> Config:
    """FastConvMAE-B, 50 epochs of four complementary masks a sample.  8 GPUs, 64 images each.

    Source: FastConvMAE's PRETRAIN.md.  Published: fine-tune 84.4, COCO Mask R-CNN 51.0 / 45.4, ADE20K 48.3.
    """
    return Config(
        data=DataConfig(crop="rrc", rrc_scale=0.2),
        model=ModelConfig(method="convmae", depth=11, complementary=True),
        optim=OptimConfig(epochs=50, warmup_epochs=10, base_lr=6e-4, global_batch=512),
        run=published_run("fastconvmae-b-50e"),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "convmae-b-1600e": convmae_b_1600e,
    "convmae-pixmim-b-800e": convmae_pixmim_b_800e,
    "fastconvmae-b-50e": fastconvmae_b_50e,
}
