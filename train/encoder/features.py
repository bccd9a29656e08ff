"""Frozen features: what an encoder makes of whole images, without a mask, and plain pixels beside it.

Suffixes: B batch, N samples, S the image's side, K patches (all of them are kept), D encoder width, V values.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.models.classifier import Classifier, Encoder, fresh
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config
from turbomim.train.settings.finetune import FinetuneConfig

# raw pixels are compared at no more than this side: a baseline, not a test of memory
PIXELS_SIDE = 32
PIXELS = "raw pixels"
NONE_LEFT = "every image was left out: look at the shards with `turbomim shard verify SHARDS --images`"
# what is read of an encoder
CLASS_TOKEN, MEAN = "class token", "mean of patch tokens"
# by the words of --pool
POOLS = {"mean": MEAN, "cls": CLASS_TOKEN}
# images (B, S, S, 3) and labels (B,)
CropBatches = Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Features:
    """Features of the same N samples by name, each (N, D) float32 on the CPU; labels (N,) int64."""

    by_name: dict[str, Tensor]
    labels_N: Tensor


def load_run(run: Path) -> tuple[Config, MAE, int]:
    """The settings, the model and the step of a run's newest whole checkpoint.

    Raises UserError where there is no run or no whole checkpoint.
    """
    config = rundir.read_config(run)
    model = make_model(config, initial=False)
    return config, model, _load_newest(run, model)


def load_finetuned(run: Path) -> tuple[FinetuneConfig, Classifier, int]:
    """The same of a fine-tuning.  Raises UserError where there is none, or no whole checkpoint."""
    if not rundir.is_finetuning(run):
        raise UserError(
            f"{run} is no fine-tuning, it has no head: give the folder of one, RUN/eval/finetune; "
            "`turbomim eval finetune` makes it"
        )
    config = rundir.read_config(run, FinetuneConfig)
    assert isinstance(config, FinetuneConfig), "read as such"
    model = Classifier(make_model(config, initial=False), config)
    return config, model, _load_newest(run, model)


def _load_newest(run: Path, model: Encoder) -> int:
    """Fill a model from a run's newest whole checkpoint; its step.  Raises UserError if there is none."""
    found, _ = checkpoint.newest(run / "ckpt")
    if found is None:
        raise UserError(
            f"{run}/ckpt has no whole checkpoint yet: let the run save one (run.save_every steps)"
        )
    checkpoint.load(found, model)
    return checkpoint.read_state(found).step


def normalised(
    images_BHWC: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Images (B, H, W, 3) uint8 as (B, 3, H, W) float32, normalised by a mean and deviation of 0..1."""
    # filled where they are used: a copy of them would make the host wait for a GPU
    mean_C, std_C = (
        torch.stack([torch.full((), value, device=images_BHWC.device) for value in values])
        for values in (mean, std)
    )
    return ((images_BHWC.float() / 255 - mean_C) / std_C).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def encode(model: Encoder, images_BHWC: Tensor) -> dict[str, Tensor]:
    """The class token, if there is one, and the mean of the patch tokens, (B, D) float32 each.

    images (B, S, S, 3) uint8 on the model's device.  Nothing is masked; both are taken after the final norm.
    A fine-tuned encoder has the mean alone, normalised by the head's norm: what the head's classes are told
    by.  No loss has looked at its class token.
    """
    tokens_BTD = model.features(images_BHWC)
    if isinstance(model, Classifier):
        return {MEAN: model.pooled(tokens_BTD)}
    mean = {MEAN: tokens_BTD[:, model.prefix :].mean(1)}
    return {CLASS_TOKEN: tokens_BTD[:, 0], **mean} if model.prefix else mean


def pixels(images_BHWC: Tensor) -> Tensor:
    """Images as vectors (B, V) float32 in 0..1, averaged down to PIXELS_SIDE where they are larger."""
    scaled_BCHW = images_BHWC.permute(0, 3, 1, 2).float() / 255
    if scaled_BCHW.shape[-1] > PIXELS_SIDE:
        scaled_BCHW = functional.adaptive_avg_pool2d(scaled_BCHW, PIXELS_SIDE)
    return scaled_BCHW.flatten(1)


def trained_and_random(model: Encoder, config: Config) -> dict[str, Encoder]:
    """An encoder, and what its training must be better than: the same one with its initial weights."""
    return {"trained": model, "random weights": fresh(model, config)}


def every_feature(encoders: Mapping[str, Encoder], images_BHWC: Tensor) -> dict[str, Tensor]:
    """Every feature of images (B, S, S, 3) uint8 by every encoder, on the images' device, and plain pixels.

    Names are `ENCODER: class token`, `ENCODER: mean of patch tokens` and `raw pixels`.
    """
    found = {
        f"{name}: {kind}": features_BD
        for name, model in encoders.items()
        for kind, features_BD in encode(model, images_BHWC).items()
    }
    return {**found, PIXELS: pixels(images_BHWC)}


def extract(
    batches: CropBatches,
    features_of: Callable[[Tensor], Mapping[str, Tensor]],
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
) -> Features:
    """Features of all crops, each encoded once.

    features_of: features (B, D) by name of images on the device, which is that of the encoders in it;
    progress: hears how many images are encoded.  Raises UserError if there is no crop.
    """
    parts: dict[str, list[Tensor]] = {}
    labels: list[Tensor] = []
    progress(0)
    done = 0
    for images, labels_B in batches:
        for name, features_BD in features_of(torch.from_numpy(images).to(device)).items():
            parts.setdefault(name, []).append(features_BD.cpu())
        labels.append(torch.from_numpy(labels_B))
        done += len(labels_B)
        progress(done)
    if not done:
        raise UserError(NONE_LEFT)
    return Features(
        by_name={name: torch.cat(some) for name, some in parts.items()}, labels_N=torch.cat(labels)
    )
