"""Recipes: functions that return a Config.  Hyper-parameters are the published ones, with their source.

Command of every recipe: `turbomim pretrain NAME --data.path SHARDS`, with `torchrun --nproc-per-node 8 -m
turbomim …` for 8 GPUs.  A result is quoted only where it was published for exactly this recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from turbomim.train.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig, unknown


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


def mae_vit_b16_800e() -> Config:
    """MAE ViT-B/16, 800 epochs.  8x A100-80G.

    Source: the MAE repository's PRETRAIN.md.  mmselfsup's run of this schedule: fine-tune 83.3, linear 65.1
    (it spares tokens from decay).
    """
    return Config(
        data=DataConfig(crop="rrc", rrc_scale=0.2),
        model=ModelConfig(target="raw"),
        optim=OptimConfig(epochs=800, warmup_epochs=40),
        run=RunConfig(name="mae-vit-b16-800e", log_every=20, save_every=1000),
    )


def _pixmim(name: str, epochs: int, target: Literal["gaussian", "ideal"]) -> Config:
    """The schedule of mmselfsup's PixMIM: tokens are spared from decay and warm-up starts above zero."""
    return Config(
        data=DataConfig(crop="src", interpolation="bilinear"),
        model=ModelConfig(target=target, radius=40.0),
        optim=OptimConfig(
            epochs=epochs, warmup_epochs=40, warmup_start=1e-4 if epochs == 300 else 1e-9, decay_tokens=False
        ),
        run=RunConfig(name=name, seed=2, log_every=20, save_every=1000),
    )


def pixmim_vit_b16_300e() -> Config:
    """PixMIM ViT-B/16, 300 epochs, Gaussian target.  8x A100-80G.

    Source: mmselfsup's PixMIM configuration with a smooth low-pass in place of its disc; no published result.
    """
    return _pixmim("pixmim-vit-b16-300e", 300, "gaussian")


def pixmim_vit_b16_800e() -> Config:
    """PixMIM ViT-B/16, 800 epochs, Gaussian target.  8x A100-80G.

    Source: mmselfsup's PixMIM configuration with a smooth low-pass in place of its disc; no published result.
    """
    return _pixmim("pixmim-vit-b16-800e", 800, "gaussian")


def pixmim_ideal_vit_b16_300e() -> Config:
    """PixMIM ViT-B/16, 300 epochs, the published disc filter.  8x A100-80G.

    Source: mmselfsup's configs/selfsup/pixmim.  Published there: fine-tune 83.1, linear 63.3 (in float16,
    with the halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return _pixmim("pixmim-ideal-vit-b16-300e", 300, "ideal")


def pixmim_ideal_vit_b16_800e() -> Config:
    """PixMIM ViT-B/16, 800 epochs, the published disc filter.  8x A100-80G.

    Source: mmselfsup's configs/selfsup/pixmim.  Published there: fine-tune 83.5, linear 67.5 (in float16,
    with the halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return _pixmim("pixmim-ideal-vit-b16-800e", 800, "ideal")


RECIPES: dict[str, Callable[[], Config]] = {
    "demo": demo,
    "mae-vit-b16-800e": mae_vit_b16_800e,
    "pixmim-vit-b16-300e": pixmim_vit_b16_300e,
    "pixmim-vit-b16-800e": pixmim_vit_b16_800e,
    "pixmim-ideal-vit-b16-300e": pixmim_ideal_vit_b16_300e,
    "pixmim-ideal-vit-b16-800e": pixmim_ideal_vit_b16_800e,
}


def recipe(name: str) -> Config:
    """The settings of a recipe.  Raises UserError with the nearest names for an unknown one."""
    if name not in RECIPES:
        raise unknown("unknown recipe", name, RECIPES)
    return RECIPES[name]()
