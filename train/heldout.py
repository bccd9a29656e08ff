"""Masked-patch loss on samples that are never trained on.

Same crops and same masks every time it is asked.
"""

from __future__ import annotations

import itertools
import math

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
    """Mean loss over the first MOST held-out samples, equal on every rank and for any batch size."""
    samples = min(split.manifest.samples, MOST)
    batch = max(1, min(micro_batch, samples // world.size))
    total = torch.zeros((), device=world.device)
    model.eval()
    with Loader(
        split,
        size=config.data.size,
        crop=config.data.crop,
        scale=config.data.rrc_scale,
        interpolation=config.data.interpolation,
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
        for item in itertools.islice(loader, math.ceil(samples / (batch * world.size))):
            # the last batches reach into the stream's next epoch
            count = min(batch, max(0, samples - item.position))
            if count:
                with autocast(config.step, world.device):
                    loss = model(item.images_BHWC[:count], item.epochs_B[:count], item.ids_B[:count])
                total += loss * count
    model.train()
    return float(world.mean(total) * world.size / samples)
