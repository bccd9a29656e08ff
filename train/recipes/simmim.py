"""SimMIM's recipes.  Source: microsoft/SimMIM's and, for SwinV2, microsoft/Swin-Transformer's configurations.

All mask 60 % of the squares of 32 pixels.  The published runs were in float16, these are in bfloat16, and
that code has three slips, which `--optim.published-slips true` brings back: a cosine that counts from the
first step although warm-up comes first, every step at the rate of the one before, and weight decay of
position tables (of the ViT's mask token too).
"""

from collections.abc import Callable
from dataclasses import replace

from turbomim.train.recipes.published import published_run
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig

_SWIN_B = ModelConfig(
    method="simmim-swin",
    patch=4,
    width=128,
    heads=4,
    stages="2,2,18,2",
    window=6,
    mask_ratio=0.6,
    mask_unit=8,
    norm_pix=False,
)


def _simmim(name: str, size: int, model: ModelConfig) -> Config:
    """The schedule of all runs of 800 epochs: a tenth of the rate from epoch 700 on."""
    return Config(
        data=DataConfig(size=size, crop="rrc", rrc_scale=0.67, interpolation="bilinear"),
        model=model,
        optim=OptimConfig(
            epochs=800,
            warmup_epochs=10,
            # from 5e-7 at a batch of 512
            warmup_start=0.005,
            base_lr=1e-4,
            lr_batch=512,
            global_batch=2048,
            schedule="step",
            lr_drop_epochs=700,
            beta2=0.999,
            clip_grad=5.0,
            decay_tokens=False,
        ),
        run=published_run(name),
    )


def simmim_vit_b16_800e() -> Config:
    """SimMIM ViT-B/16, 800 epochs at 224 pixels.  16 GPUs: 128 images each.

    Source: SimMIM's configs/vit_base__800ep.  Published for it, in float16 and with the slips: fine-tune
    83.8, linear 56.7 (mean patch token after the 8th block).
    """
    model = ModelConfig(method="simmim", mask_ratio=0.6, mask_unit=2, norm_pix=False, drop_path=0.1)
    return _simmim("simmim-vit-b16-800e", 224, model)


def simmim_swin_b_100e() -> Config:
    """SimMIM Swin-B, 100 epochs at 192 pixels, cosine.  16 GPUs: 128 images each.

    Source: SimMIM's configs/swin_base__100ep.  Published there, in float16 and with the slips: fine-tune 82.8
    at 192 pixels, 83.5 at 224.
    """
    config = _simmim("simmim-swin-b-100e", 192, _SWIN_B)
    # at a batch of 512: 2e-4, from 1e-6, to 1e-5
    optim = replace(
        config.optim, epochs=100, base_lr=2e-4, schedule="cosine", lr_drop_epochs=0.0, min_lr=4e-5
    )
    return replace(config, optim=optim)


def simmim_swin_b_800e() -> Config:
    """SimMIM Swin-B, 800 epochs at 192 pixels.  16 GPUs: 128 images each.

    Source: Swin-Transformer's configs/simmim.  Published there, in float16 and with the slips: fine-tune 84.0
    at 224 pixels.
    """
    return _simmim("simmim-swin-b-800e", 192, _SWIN_B)


def simmim_swin_l_800e() -> Config:
    """SimMIM Swin-L with windows of 12, 800 epochs at 192 pixels.  16 GPUs: 128 images each.

    Source: Swin-Transformer's configs/simmim.  Published there, in float16 and with the slips: fine-tune 85.4
    at 224 pixels with windows of 14.
    """
    return _simmim("simmim-swin-l-800e", 192, replace(_SWIN_B, width=192, heads=6, window=12))


def simmim_swinv2_b_800e() -> Config:
    """SimMIM SwinV2-B with windows of 12, 800 epochs at 192 pixels.  16 GPUs: 128 images each.

    Targets are normalised by windows of 47 pixels.
    Source: Swin-Transformer's configs/simmim.  Published for it (500,000 steps), in float16 and with the
    slips: fine-tune 85.04.
    """
    model = replace(_SWIN_B, method="simmim-swinv2", window=12, norm_window=47, drop_path=0.1)
    return _simmim("simmim-swinv2-b-800e", 192, model)


def simmim_pixmim_vit_b16_800e() -> Config:
    """simmim-vit-b16-800e with PixMIM's two changes: a low-passed target and the simple resized crop.

    16 GPUs: 128 images each.  No published result.
    """
    config = simmim_vit_b16_800e()
    return replace(
        config,
        data=replace(config.data, crop="src"),
        model=replace(config.model, target="gaussian"),
        run=replace(config.run, name="simmim-pixmim-vit-b16-800e"),
    )


RECIPES: dict[str, Callable[[], Config]] = {
    "simmim-vit-b16-800e": simmim_vit_b16_800e,
    "simmim-swin-b-100e": simmim_swin_b_100e,
    "simmim-swin-b-800e": simmim_swin_b_800e,
    "simmim-swin-l-800e": simmim_swin_l_800e,
    "simmim-swinv2-b-800e": simmim_swinv2_b_800e,
    "simmim-pixmim-vit-b16-800e": simmim_pixmim_vit_b16_800e,
}
