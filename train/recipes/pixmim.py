"""Recipes of PixMIM, with the published low-pass filter and with a smooth one, and that of the demo."""

from collections.abc import Callable
from dataclasses import replace

from turbomim.train.recipes.published import VIT_H14, VIT_L16, VIT_S16, pixmim
from turbomim.train.settings.config import Config, DataConfig, RunConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig


def demo() -> Config:
    """PixMIM with a small ViT on 96-pixel photographs: minutes on 2 CPU cores.

    What `turbomim demo` runs.  The cut-off of 40 cycles at 224 pixels is 17 at 96: the same blur in pixels.
    """
    return Config(
        data=DataConfig(size=96),
        model=ModelConfig(
            patch=8,
            width=128,
            depth=6,
            heads=4,
            decoder_width=128,
            decoder_depth=2,
            decoder_heads=4,
            target="gaussian",
            radius=17.0,
        ),
        # small batches: many steps matter more than smooth ones when minutes are few
        optim=OptimConfig(epochs=80, warmup_epochs=4, base_lr=8e-3, global_batch=32, decay_tokens=False),
        run=RunConfig(name="demo", log_every=20, save_every=100, eval_every=100),
    )


def pixmim_vit_s16_800e() -> Config:
    """PixMIM ViT-S/16, 800 epochs, Gaussian target.  8x A100.

    Source: mmselfsup's PixMIM schedule with the decoder of its author's ViT-S runs, 384 wide with 12 heads,
    and a smooth low-pass in place of the disc; no published result.
    """
    return pixmim("pixmim-vit-s16-800e", 800, replace(VIT_S16, target="gaussian"))


def pixmim_vit_b16_300e() -> Config:
    """PixMIM ViT-B/16, 300 epochs, Gaussian target.  8x A100-80G.

    Source: mmselfsup's PixMIM configuration with a smooth low-pass in place of its disc; no published result.
    """
    return pixmim("pixmim-vit-b16-300e", 300, ModelConfig(target="gaussian"))


def pixmim_vit_b16_800e() -> Config:
    """PixMIM ViT-B/16, 800 epochs, Gaussian target.  8x A100-80G.

    Source: mmselfsup's PixMIM configuration with a smooth low-pass in place of its disc; no published result.
    """
    return pixmim("pixmim-vit-b16-800e", 800, ModelConfig(target="gaussian"))


def pixmim_vit_l16_800e() -> Config:
    """PixMIM ViT-L/16, 800 epochs, Gaussian target.  64 GPUs.

    Source: mmselfsup's PixMIM schedule, published for ViT-B alone, with ViT-L's sizes and a smooth low-pass
    in place of the disc; no published result.
    """
    return pixmim("pixmim-vit-l16-800e", 800, replace(VIT_L16, target="gaussian"))


def pixmim_vit_h14_800e() -> Config:
    """PixMIM ViT-H/14, 800 epochs, Gaussian target.  64 GPUs.

    Source: mmselfsup's PixMIM schedule, published for ViT-B alone, with ViT-H's sizes and a smooth low-pass
    in place of the disc; no published result.
    """
    return pixmim("pixmim-vit-h14-800e", 800, replace(VIT_H14, target="gaussian"))


def pixmim_ideal_vit_b16_300e() -> Config:
    """PixMIM ViT-B/16, 300 epochs, the published disc filter.  8x A100-80G.

    Source: mmselfsup's configs/selfsup/pixmim.  Published there: fine-tune 83.1, linear 63.3 (in float16,
    with the halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return pixmim("pixmim-ideal-vit-b16-300e", 300, ModelConfig(target="ideal"))


def pixmim_ideal_vit_b16_800e() -> Config:
    """PixMIM ViT-B/16, 800 epochs, the published disc filter.  8x A100-80G.

    Source: mmselfsup's configs/selfsup/pixmim.  Published there: fine-tune 83.5, linear 67.5 (in float16,
    with the halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return pixmim("pixmim-ideal-vit-b16-800e", 800, ModelConfig(target="ideal"))


RECIPES: dict[str, Callable[[], Config]] = {
    "pixmim-vit-s16-800e": pixmim_vit_s16_800e,
    "pixmim-vit-b16-300e": pixmim_vit_b16_300e,
    "pixmim-vit-b16-800e": pixmim_vit_b16_800e,
    "pixmim-vit-l16-800e": pixmim_vit_l16_800e,
    "pixmim-vit-h14-800e": pixmim_vit_h14_800e,
    "pixmim-ideal-vit-b16-300e": pixmim_ideal_vit_b16_300e,
    "pixmim-ideal-vit-b16-800e": pixmim_ideal_vit_b16_800e,
}
