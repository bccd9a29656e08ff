"""Masked-patch loss on samples that are never trained on.

Same crops and same masks every time it is asked.
"""

import dataclasses
import itertools
import math

import torch
from torch import nn

from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.tars.split import Split
from turbomim.train.loop.data import open_loader
from turbomim.train.loop.session import RunFolder, Session
from turbomim.train.loop.step import autocast
from turbomim.train.settings.config import Config

# held-out samples that are looked at
MAX_SAMPLES = 4096


@torch.no_grad()
def heldout_loss(model: nn.Module, heldout: Split, session: Session[Config], folder: RunFolder) -> float:
    """Mean loss over the first MAX_SAMPLES held-out samples, equal on every rank and for any batch size."""
    world = session.world
    samples = min(heldout.manifest.samples, MAX_SAMPLES)
    batch = max(1, min(session.plan.micro_batch, samples // world.size))
    total = torch.zeros((), device=world.device)
    model.eval()

    def add_losses() -> None:
        nonlocal total
        with open_loader(
            session.config,
            heldout,
            BatchCut(global_batch=batch * world.size, micro_batch=batch, rank=world.rank, world=world.size),
            # it runs beside the training's loader
            dataclasses.replace(session.loader_speed, readers=1, prefetch=1),
            device=world.device.type,
            journal=folder.journal,
            notify=lambda text: folder.log.note(f"held-out: {text}"),
        ) as loader:
            for item in itertools.islice(loader, math.ceil(samples / (batch * world.size))):
                # the last batches reach into the stream's next epoch
                count = min(batch, max(0, samples - item.position))
                # a rank without any left runs one too: a sharded model needs every rank
                some = max(count, 1)
                with autocast(session.config.step, world.device):
                    loss = model(item.images_BHWC[:some], item.epochs_B[:some], item.ids_B[:some])
                if count:
                    total += loss * count

    world.run_on_all(add_losses)
    model.train()
    return float(world.mean(total) * world.size / samples)
