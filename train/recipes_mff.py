"""Recipes of MFF: MAE and PixMIM whose decoder sees the fused outputs of several blocks."""

from __future__ import annotations

from collections.abc import Callable

from turbomim.train.config import Config, DataConfig, ModelConfig, OptimConfig, RunConfig

# the levels of the PixMIM author's runs with fusion
PIXMIM_LEVELS = "3,5,7,11"


def _mff(name: str, epochs: int, model: ModelConfig, *, bicubic: bool = False) -> Config:
    """The schedule of mmselfsup's PixMIM, which mmpretrain's MFF has too: tokens are spared from decay."""
    return Config(
        data=DataConfig(crop="src", interpolation="bicubic" if bicubic else "bilinear"),
        model=model,
        optim=OptimConfig(
            epochs=epochs, warmup_epochs=40, warmup_start=1e-4 if epochs == 300 else 1e-9, decay_tokens=False
        ),
        run=RunConfig(name=name, seed=2, log_every=20, save_every=1000),
    )


def mff_vit_b16_300e() -> Config:
    """MFF ViT-B/16, 300 epochs, raw target.  8x A100-80G.

    Source: mmpretrain's configs/mff.  Published there: fine-tune 83.0, linear 64.2 (in float16, with the
    halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return _mff("mff-vit-b16-300e", 300, ModelConfig(method="mff"))


def mff_vit_b16_800e() -> Config:
    """MFF ViT-B/16, 800 epochs, raw target.  8x A100-80G.

    Source: mmpretrain's configs/mff.  Published there: fine-tune 83.7, linear 68.3 (in float16, with the
    halves of the position embedding swapped and small random biases in the MLPs at the start).
    """
    return _mff("mff-vit-b16-800e", 800, ModelConfig(method="mff"))


def mff_vit_s16_800e() -> Config:
    """MFF ViT-S/16, 800 epochs, raw target.  8x A100.

    Source: mmpretrain's configs/mff, which has no ViT-S; the decoder, 384 wide with 12 heads, is that of the
    PixMIM author's ViT-S runs.  No published result.
    """
    model = ModelConfig(method="mff", width=384, heads=6, decoder_width=384, decoder_heads=12)
    return _mff("mff-vit-s16-800e", 800, model)


def pixmim_mff_vit_b16_800e() -> Config:
    """PixMIM with MFF, ViT-B/16, 800 epochs, Gaussian target.  8x A100-80G.

    Source: the PixMIM author's runs with fusion (blocks 3, 5, 7 and 11, bicubic), with a smooth low-pass in
    place of the disc; no published result.
    """
    model = ModelConfig(method="mff", fuse=PIXMIM_LEVELS, target="gaussian")
    return _mff("pixmim-mff-vit-b16-800e", 800, model, bicubic=True)


def pixmim_mff_vit_s16_800e() -> Config:
    """PixMIM with MFF, ViT-S/16, 800 epochs, Gaussian target.  8x A100.

    Source: the PixMIM author's runs with fusion (blocks 3, 5, 7 and 11, bicubic; decoder 384 wide with 12
    heads), with a smooth low-pass in place of the disc; no published result.
    """
    model = ModelConfig(
        method="mff",
        width=384,
        heads=6,
        decoder_width=384,
        decoder_heads=12,
        fuse=PIXMIM_LEVELS,
        target="gaussian",
    )
    return _mff("pixmim-mff-vit-s16-800e", 800, model, bicubic=True)


def _cifar10(name: str, model: ModelConfig) -> Config:
    """As cifar10-pixmim-vit-t4, with fusion.  Block n of 12 is here block n // 2 of 6."""
    return Config(
        data=DataConfig(size=32, crop="src"),
        model=model,
        optim=OptimConfig(epochs=8, warmup_epochs=0.8, base_lr=1e-3, global_batch=256, decay_tokens=False),
        run=RunConfig(name=name, log_every=20, save_every=500),
    )


def cifar10_mff_vit_t4() -> Config:
    """MFF with a ViT of 192x6, patch 4, on CIFAR-10.  2 CPU cores, a quarter of an hour.

    Every block is fused: MFF's 0, 2, 4, 6, 8 and 11 of 12 lie where all six are here.
    """
    model = ModelConfig(
        method="mff", patch=4, width=192, depth=6, heads=3, decoder_width=96, decoder_depth=2,
        decoder_heads=3, fuse="0,1,2,3,4,5", radius=5.7,
    )  # fmt: skip
    return _cifar10("cifar10-mff-vit-t4", model)


def cifar10_pixmim_mff_vit_t4() -> Config:
    """PixMIM with MFF, a ViT of 192x6, patch 4, on CIFAR-10.  2 CPU cores, a quarter of an hour.

    The author's blocks 3, 5, 7 and 11 of 12 are 1, 2, 3 and 5 of 6.
    """
    model = ModelConfig(
        method="mff", patch=4, width=192, depth=6, heads=3, decoder_width=96, decoder_depth=2,
        decoder_heads=3, fuse="1,2,3,5", target="gaussian", radius=5.7,
    )  # fmt: skip
    return _cifar10("cifar10-pixmim-mff-vit-t4", model)


RECIPES: dict[str, Callable[[], Config]] = {
    "mff-vit-b16-300e": mff_vit_b16_300e,
    "mff-vit-b16-800e": mff_vit_b16_800e,
    "mff-vit-s16-800e": mff_vit_s16_800e,
    "pixmim-mff-vit-b16-800e": pixmim_mff_vit_b16_800e,
    "pixmim-mff-vit-s16-800e": pixmim_mff_vit_s16_800e,
    "cifar10-mff-vit-t4": cifar10_mff_vit_t4,
    "cifar10-pixmim-mff-vit-t4": cifar10_pixmim_mff_vit_t4,
}
