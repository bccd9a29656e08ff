"""What the linear probe that papers report reads of an encoder, and the crops that its head learns from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from turbomim.pipeline.loader import Loader
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import INTERPOLATION
from turbomim.train.encoder.features import encode
from turbomim.train.evaluate.linear_head import (
    Batches,
)
from turbomim.train.loop.data import check_store, open_loader
from turbomim.train.machine.tuned_loader import default_settings
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import largest_divisor
from turbomim.train.world.distributed import World

# blocks of SimMIM's ViT before the features that its published probe reads
SIMMIM_BLOCKS = 8
CLASS_TOKEN, MEAN = "class token", "mean of patch tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """How the published head is trained."""

    epochs: float
    warmup_epochs: float
    base_lr: float
    batch: int
    seed: int


def fitting_batch(samples: int) -> int:
    """A power of two that makes eight steps or more of an epoch, where there are samples for them."""
    return int(2 ** max(1, (samples // 8).bit_length() - 1))


def published_encoder(model: MAE, config: Config) -> tuple[MAE, str]:
    """The encoder as its method's published probe reads it, and which of its features.

    The class token after the final norm; without one the mean of the patch tokens; for SimMIM's ViT that mean
    after the 8th block, before any norm.  Changes the model.
    """
    if config.model.method == "simmim":
        model.blocks = model.blocks[:SIMMIM_BLOCKS]
        model.norm = nn.Identity()  # type: ignore[assignment]
        return model, MEAN
    return model, CLASS_TOKEN if model.prefix else MEAN


def model_width(model: MAE) -> int:
    """Values of a feature."""
    norm = model.norm
    return norm.normalized_shape[0] if isinstance(norm, nn.LayerNorm) else int(model.cls_token.shape[-1])


def random_crops(config: Config, split: Split, head: Head, most: int, device: torch.device) -> Loader:
    """Random resized crops (0.08 to 1) and flips of a split, micro-batches that divide a step's samples."""
    data = dataclasses.replace(config.data, crop="rrc", rrc_scale=0.08, interpolation=INTERPOLATION)
    check_store(data, split, "--train", device.type)
    run = dataclasses.replace(config.run, seed=head.seed)
    return open_loader(
        dataclasses.replace(config, data=data, run=run),
        split,
        default_settings(),
        World(rank=0, size=1, device=device),
        global_batch=head.batch,
        micro_batch=largest_divisor(head.batch, most),
        notify=print,
    )


def encoded_batches(loader: Loader, model: MAE, kind: str, batch: int) -> Batches:
    """A step's samples at a time, encoded as they come."""
    while True:
        parts: list[tuple[Tensor, Tensor]] = []
        while sum(len(labels_B) for _, labels_B in parts) < batch:
            item = next(loader)
            if bool((item.labels_B < 0).any()):
                raise UserError(
                    f"a sample from position {item.position} on has no label: make the split anew"
                )
            parts.append((encode(model, item.images_BHWC)[kind], item.labels_B))
        features_BD, labels_B = (torch.cat(some) for some in zip(*parts, strict=True))
        yield features_BD, labels_B
