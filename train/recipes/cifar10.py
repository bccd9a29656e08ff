"""Recipes for CIFAR-10: as many epochs as 2 CPU cores manage in about a quarter of an hour.

All have one encoder, a ViT of 192x6 with patches of 4 pixels.  Command and results: docs/learning.md.
"""

from collections.abc import Callable
from dataclasses import replace

from turbomim.train.settings.config import Config, DataConfig, RunConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig

# the low-pass's 40 cycles at 224 pixels are 5.7 at 32: the same blur in pixels
_VIT_T4 = ModelConfig(
    patch=4, width=192, depth=6, heads=3, decoder_width=96, decoder_depth=2, decoder_heads=3, radius=5.7
)


def _cifar10(name: str, model: ModelConfig, *, decay_tokens: bool = False) -> Config:
    """Batch 256, lr 1e-3; tokens are spared from decay unless the method's own schedule decays them."""
    return Config(
        data=DataConfig(size=32, crop="src"),
        model=model,
        optim=OptimConfig(
            epochs=8, warmup_epochs=0.8, base_lr=1e-3, global_batch=256, decay_tokens=decay_tokens
        ),
        run=RunConfig(name=name, log_every=20, save_every=500),
    )


def cifar10_vit_t4() -> Config:
    """MAE with a ViT of 192x6, patch 4, on CIFAR-10.  2 CPU cores, a quarter of an hour.

    The plain recipe: batch 256, lr 1e-3, three quarters masked, raw target.  Results: docs/learning.md.
    """
    return _cifar10("cifar10-vit-t4", _VIT_T4, decay_tokens=True)


def cifar10_pixmim_vit_t4() -> Config:
    """PixMIM with a ViT of 192x6, patch 4, on CIFAR-10: cifar10-vit-t4 with a low-passed target.

    2 CPU cores, a quarter of an hour.  Results: docs/learning.md.
    """
    return _cifar10("cifar10-pixmim-vit-t4", replace(_VIT_T4, target="gaussian"))


def cifar10_vit_t4_tuned() -> Config:
    """cifar10-vit-t4 with a batch of 64 at the same rate: four times the steps.  2 CPU cores, 15 minutes.

    When minutes are few, many steps matter more than smooth ones.  Results: docs/learning.md.
    """
    config = _cifar10("cifar10-vit-t4-tuned", _VIT_T4, decay_tokens=True)
    return replace(config, optim=replace(config.optim, global_batch=64, base_lr=4e-3))


def cifar10_fast() -> Config:
    """cifar10-vit-t4-tuned with Muon: a probe of 60 % in the fewest minutes found.  2 CPU cores.

    3.6 passes over the images.  Records and rules: docs/learning.md, "The speed-run".
    """
    config = cifar10_vit_t4_tuned()
    optim = replace(config.optim, name="muon", ns_steps=3, epochs=3.6, warmup_epochs=0.32, base_lr=16e-3)
    return replace(config, optim=optim, run=replace(config.run, name="cifar10-fast"))


def cifar10_mff_vit_t4() -> Config:
    """MFF with a ViT of 192x6, patch 4, on CIFAR-10.  2 CPU cores, a quarter of an hour.

    Every block is fused: MFF's 0, 2, 4, 6, 8 and 11 of 12 lie where all six are here.
    """
    return _cifar10("cifar10-mff-vit-t4", replace(_VIT_T4, method="mff", fuse="0,1,2,3,4,5"))


def cifar10_pixmim_mff_vit_t4() -> Config:
    """PixMIM with MFF, a ViT of 192x6, patch 4, on CIFAR-10.  2 CPU cores, a quarter of an hour.

    The author's blocks 3, 5, 7 and 11 of 12 are 1, 2, 3 and 5 of 6.
    """
    model = replace(_VIT_T4, method="mff", fuse="1,2,3,5", target="gaussian")
    return _cifar10("cifar10-pixmim-mff-vit-t4", model)


RECIPES: dict[str, Callable[[], Config]] = {
    "cifar10-vit-t4": cifar10_vit_t4,
    "cifar10-pixmim-vit-t4": cifar10_pixmim_vit_t4,
    "cifar10-mff-vit-t4": cifar10_mff_vit_t4,
    "cifar10-pixmim-mff-vit-t4": cifar10_pixmim_mff_vit_t4,
    "cifar10-vit-t4-tuned": cifar10_vit_t4_tuned,
    "cifar10-fast": cifar10_fast,
}
