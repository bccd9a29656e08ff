"""Recipes of LSMAE: MAE on 448 pixels, 784 patches, which are masked in units of 2 x 2 (arXiv:2210.07224)."""

from collections.abc import Callable
from dataclasses import replace

from turbomim.train.recipes.published import VIT_L16, mae_800e
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.settings.model import ModelConfig

_RRC = DataConfig(size=448, crop="rrc", rrc_scale=0.2)
# with long_seq_mae's decoder
_VIT_B16 = ModelConfig(mask_unit=2, decoder_width=384, decoder_heads=12)


def lsmae_vit_b16_800e() -> Config:
    """LSMAE ViT-B/16 at 448 pixels, 800 epochs.  64 GPUs: 3.4 times the work of MAE at 224.

    Source: long_seq_mae, with its decoder, 384 wide with 12 heads.  Its README gives weights, no result on
    ImageNet.
    """
    return mae_800e("lsmae-vit-b16-800e", _VIT_B16, _RRC)


def lsmae_vit_l16_800e() -> Config:
    """LSMAE ViT-L/16 at 448 pixels, 800 epochs.  64 GPUs: 4.2 times the work of MAE at 224.

    Source: long_seq_mae, with its decoder, 512 wide with 16 heads.  Its README gives weights, no result on
    ImageNet.
    """
    model = replace(VIT_L16, mask_unit=2)
    return mae_800e("lsmae-vit-l16-800e", model, _RRC)


def lsmae_pixmim_vit_b16_800e() -> Config:
    """LSMAE ViT-B/16 with PixMIM's two changes: simple resized crop and Gaussian target.  64 GPUs.

    The low-pass is given in cycles per image and stays at 40: it keeps what 224 pixels keep of the scene, and
    blurs twice as many pixels.  `--model.radius 80` blurs as many pixels as at 224.
    Source: lsmae-vit-b16-800e and arXiv:2303.02416, whose settings for it were not released; no published
    result for this.
    """
    model = replace(_VIT_B16, target="gaussian")
    return mae_800e("lsmae-pixmim-vit-b16-800e", model, DataConfig(size=448, crop="src"))


RECIPES: dict[str, Callable[[], Config]] = {
    "lsmae-vit-b16-800e": lsmae_vit_b16_800e,
    "lsmae-vit-l16-800e": lsmae_vit_l16_800e,
    "lsmae-pixmim-vit-b16-800e": lsmae_pixmim_vit_b16_800e,
}
