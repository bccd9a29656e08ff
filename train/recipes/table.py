"""Recipes: functions that return a Config.  Hyper-parameters are the published ones, with their source.

Command of every recipe: `turbomim pretrain NAME --data.path SHARDS`, with `torchrun --nproc-per-node 8 -m
turbomim …` for 8 GPUs.  A result is quoted only where it was published for exactly this recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from turbomim.pipeline.system.errors import unknown
from turbomim.train.recipes import cifar10, convmae, lsmae, mff, published, simmim
from turbomim.train.settings.config import Config, DataConfig, OptimConfig, RunConfig
from turbomim.train.settings.model import ModelConfig

Target = Literal["raw", "gaussian", "ideal"]


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


def _vit_s16(target: Target = "raw") -> ModelConfig:
    return replace(published.VIT_S16, target=target)


def _vit_l16(target: Target = "raw") -> ModelConfig:
    return ModelConfig(width=1024, depth=24, heads=16, target=target)


def _vit_h14(target: Target = "raw") -> ModelConfig:
    return ModelConfig(patch=14, width=1280, depth=32, heads=16, target=target)


def _mae_800e(name: str, model: ModelConfig) -> Config:
    return published.mae_800e(name, model, DataConfig(crop="rrc", rrc_scale=0.2))


def mae_vit_s16_800e() -> Config:
    """MAE ViT-S/16, 800 epochs.  8x A100.

    Source: the schedule of the MAE repository's PRETRAIN.md, which has no ViT-S; the decoder, 384 wide with
    12 heads, is that of the PixMIM author's ViT-S runs.  No published result.
    """
    return _mae_800e("mae-vit-s16-800e", _vit_s16())


def mae_vit_b16_800e() -> Config:
    """MAE ViT-B/16, 800 epochs.  8x A100-80G.

    Source: the MAE repository's PRETRAIN.md.  mmselfsup's run of this schedule: fine-tune 83.3, linear 65.1
    (it spares tokens from decay).
    """
    return _mae_800e("mae-vit-b16-800e", ModelConfig())


def mae_vit_l16_800e() -> Config:
    """MAE ViT-L/16, 800 epochs.  64 GPUs: the MAE repository's run took about 42 hours on 64 V100.

    Source: the MAE repository's PRETRAIN.md.  mmselfsup's run of this schedule: fine-tune 85.4, linear 73.7
    (it spares tokens from decay).
    """
    return _mae_800e("mae-vit-l16-800e", _vit_l16())


def mae_vit_h14_800e() -> Config:
    """MAE ViT-H/14, 800 epochs.  64 GPUs.

    Source: the schedule of the MAE repository's PRETRAIN.md; published results are of 1600 epochs.
    """
    return _mae_800e("mae-vit-h14-800e", _vit_h14())


def pixmim_vit_s16_800e() -> Config:
    """PixMIM ViT-S/16, 800 epochs, Gaussian target.  8x A100.

    Source: mmselfsup's PixMIM schedule with the decoder of its author's ViT-S runs, 384 wide with 12 heads,
    and a smooth low-pass in place of the disc; no published result.
    """
    return published.pixmim("pixmim-vit-s16-800e", 800, _vit_s16("gaussian"))


def pixmim_vit_b16_300e() -> Config:
    """PixMIM ViT-B/16, 300 epochs, Gaussian target.  8x A100-80G.

    Source: mmselfsup's PixMIM configuration with a smooth low-pass in place of its disc; no published result.
    """
    return published.pixmim("pixmim-vit-b16-300e", 300, ModelConfig(target="gaussian"))


def pixmim_vit_b16_800e() -> Config:
    """PixMIM ViT-B/16, 800 epochs, Gaussian target.  8x A100-80G.

    Source: mmselfsup's PixMIM configuration with a smooth low-pass in place of its disc; no published result.
    """
    return published.pixmim("pixmim-vit-b16-800e", 800, ModelConfig(target="gaussian"))


def pixmim_vit_l16_800e() -> Config:
    """PixMIM ViT-L/16, 800 epochs, Gaussian target.  64 GPUs.

    Source: mmselfsup's PixMIM schedule, published for ViT-B alone, with ViT-L's sizes and a smooth low-pass
    in place of the disc; no published result.
    """
    return published.pixmim("pixmim-vit-l16-800e", 800, _vit_l16("gaussian"))


def pixmim_vit_h14_800e() -> Config:
    """PixMIM ViT-H/14, 800 epochs, Gaussian target.  64 GPUs.

    Source: mmselfsup's PixMIM schedule, published for ViT-B alone, with ViT-H's sizes and a smooth low-pass
    in place of the disc; no published result.
    """
    return published.pixmim("pixmim-vit-h14-800e", 800, _vit_h14("gaussian"))


def pixmim_ideal_vit_b16_300e() -> Config:
    """PixMIM ViT-B/16, 300 epochs, the published disc filter.  8x A100-80G.

    Source: mmselfsup's configs/selfsup/pixmim.  Published there: fine-tune 83.1, linear 63.3 (in float16,
    with the halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return published.pixmim("pixmim-ideal-vit-b16-300e", 300, ModelConfig(target="ideal"))


def pixmim_ideal_vit_b16_800e() -> Config:
    """PixMIM ViT-B/16, 800 epochs, the published disc filter.  8x A100-80G.

    Source: mmselfsup's configs/selfsup/pixmim.  Published there: fine-tune 83.5, linear 67.5 (in float16,
    with the halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return published.pixmim("pixmim-ideal-vit-b16-800e", 800, ModelConfig(target="ideal"))


RECIPES: dict[str, Callable[[], Config]] = {
    "demo": demo,
    **cifar10.RECIPES,
    "mae-vit-s16-800e": mae_vit_s16_800e,
    "mae-vit-b16-800e": mae_vit_b16_800e,
    "mae-vit-l16-800e": mae_vit_l16_800e,
    "mae-vit-h14-800e": mae_vit_h14_800e,
    "pixmim-vit-s16-800e": pixmim_vit_s16_800e,
    "pixmim-vit-b16-300e": pixmim_vit_b16_300e,
    "pixmim-vit-b16-800e": pixmim_vit_b16_800e,
    "pixmim-vit-l16-800e": pixmim_vit_l16_800e,
    "pixmim-vit-h14-800e": pixmim_vit_h14_800e,
    "pixmim-ideal-vit-b16-300e": pixmim_ideal_vit_b16_300e,
    "pixmim-ideal-vit-b16-800e": pixmim_ideal_vit_b16_800e,
    **mff.RECIPES,
    **lsmae.RECIPES,
    **convmae.RECIPES,
    **simmim.RECIPES,
}


def recipe(name: str) -> Config:
    """The settings of a recipe.  Raises UserError with the nearest names for an unknown one."""
    if name not in RECIPES:
        raise unknown("unknown recipe", name, RECIPES)
    return RECIPES[name]()
