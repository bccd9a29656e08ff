"""Masked-patch loss on samples that are never trained on.

Same crops and same masks every time it is asked.
"""

from __future__ import annotations

import torch
from torch import nn

from turbomim.pipeline.loader import Loader
from turbomim.pipeline.shards import Split
from turbomim.train.config import Config
from turbomim.train.distributed import World, cores
from turbomim.train.step import autocast

MOST = 4096


@torch.no_grad()
def heldout_loss(model: nn.Module, split: Split, config: Config, micro_batch: int, world: World) -> float:
    """Mean loss over the first MOST held-out samples, whole batches only (at least one).

    Equal on every rank.
    """
    samples = split.manifest.samples
    batch = max(1, min(micro_batch, samples // world.size))
    count = max(1, min(samples, MOST) // (batch * world.size))
    total = torch.zeros((), device=world.device)
    model.eval()
    with Loader(
        split,
        size=config.data.size,
        crop=config.data.crop,
        scale=config.data.rrc_scale,
        seed=config.run.seed,
        global_batch=batch * world.size,
        micro_batch=batch,
        rank=world.rank,
        world=world.size,
        device=world.device.type,
        threads=config.data.threads or cores(),
        readers=1,
        prefetch=1,
    ) as loader:
        for _, item in zip(range(count), loader, strict=False):
            with autocast(config.step, world.device):
                total += model(item.images_BHWC, item.epochs_B, item.ids_B)
    model.train()
    return float(world.mean(total / count))
