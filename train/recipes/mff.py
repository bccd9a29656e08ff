"""Recipes of MFF: MAE and PixMIM whose decoder sees the fused outputs of several blocks."""

from collections.abc import Callable
from dataclasses import replace

from turbomim.train.recipes.published import VIT_S16, pixmim
from turbomim.train.settings.config import Config
from turbomim.train.settings.model import ModelConfig

# the levels of the PixMIM author's runs with fusion
PIXMIM_LEVELS = "3,5,7,11"


def mff_vit_b16_300e() -> Config:
    """MFF ViT-B/16, 300 epochs, raw target.  8x A100-80G.

    Source: mmpretrain's configs/mff.  Published there: fine-tune 83.0, linear 64.2 (in float16, with the
    halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return pixmim("mff-vit-b16-300e", 300, ModelConfig(method="mff"))


def mff_vit_b16_800e() -> Config:
    """MFF ViT-B/16, 800 epochs, raw target.  8x A100-80G.

    Source: mmpretrain's configs/mff.  Published there: fine-tune 83.7, linear 68.3 (in float16, with the
    halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return pixmim("mff-vit-b16-800e", 800, ModelConfig(method="mff"))


def mff_vit_s16_800e() -> Config:
    """MFF ViT-S/16, 800 epochs, raw target.  8x A100.

    Source: mmpretrain's configs/mff, which has no ViT-S; the decoder, 384 wide with 12 heads, is that of the
    PixMIM author's ViT-S runs.  No published result.
    """
    return pixmim("mff-vit-s16-800e", 800, replace(VIT_S16, method="mff"))


def pixmim_mff_vit_b16_800e() -> Config:
    """PixMIM with MFF, ViT-B/16, 800 epochs, Gaussian target.  8x A100-80G.

    Source: the PixMIM author's runs with fusion (blocks 3, 5, 7 and 11, bicubic), with a smooth low-pass in
    place of the disc; no published result.
    """
    model = ModelConfig(method="mff", fuse=PIXMIM_LEVELS, target="gaussian")
    return pixmim("pixmim-mff-vit-b16-800e", 800, model, bicubic=True)


def pixmim_mff_vit_s16_800e() -> Config:
    """PixMIM with MFF, ViT-S/16, 800 epochs, Gaussian target.  8x A100.

    Source: the PixMIM author's runs with fusion (blocks 3, 5, 7 and 11, bicubic; decoder 384 wide with 12
    heads), with a smooth low-pass in place of the disc; no published result.
    """
    model = replace(VIT_S16, method="mff", fuse=PIXMIM_LEVELS, target="gaussian")
    return pixmim("pixmim-mff-vit-s16-800e", 800, model, bicubic=True)


RECIPES: dict[str, Callable[[], Config]] = {
    "mff-vit-b16-300e": mff_vit_b16_300e,
    "mff-vit-b16-800e": mff_vit_b16_800e,
    "mff-vit-s16-800e": mff_vit_s16_800e,
    "pixmim-mff-vit-b16-800e": pixmim_mff_vit_b16_800e,
    "pixmim-mff-vit-s16-800e": pixmim_mff_vit_s16_800e,
}
