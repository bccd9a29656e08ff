"""What fine-tuning does to a micro-batch after its crops: RandAugment, random erasing, mixup or cutmix.

All three are timm's, and draw from Python's, numpy's and torch's own generators.  So these are seeded first:
for an image from (seed, epoch, sample id), for what a micro-batch shares from (seed, its position).  A batch
is then the same however often the run was stopped, and on however many ranks of the same micro-batch.

Shapes: B samples, C colours, H W pixels, K classes.
"""

# timm types little of its augmentations
# mypy: allow-untyped-calls

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.errors import UserError
from turbomim.pipeline.philox import AUGMENT, MIX, draw_u32
from turbomim.train.config import IMAGENET_MEAN
from turbomim.train.features import normalised
from turbomim.train.finetune_config import FinetuneSettings

# of the side: how far RandAugment shifts at most, as timm's training transform has it
SHIFT = 0.45


def augmented_batch(batch: Batch, settings: FinetuneSettings, seed: int) -> tuple[Tensor, Tensor]:
    """Normalised images (B, 3, H, W) float32 and targets (B, K) float32, shares of classes, on their device.

    Raises UserError for a sample without a label.
    """
    if bool((batch.labels_B < 0).any()):
        raise UserError(
            f"a sample from position {batch.position} on has no label: make the train split from a folder "
            "with a folder of images a class"
        )
    epochs_B, ids_B = batch.epochs_B.cpu().numpy(), batch.ids_B.cpu().numpy()
    words_B2 = draw_u32(seed, epochs_B, ids_B, AUGMENT, 2)
    ((of_mix,),) = draw_u32(seed, np.zeros(1, np.int64), np.array([batch.position]), MIX, 1)
    with kept_generators():
        images_BHWC = rand_augmented(batch.images_BHWC, settings.rand_augment, words_B2[:, 0])
        images_BCHW = normalised(images_BHWC)
        erase(images_BCHW, settings.erase, words_B2[:, 1])
        images_BCHW, targets_BK = mixed(images_BCHW, batch.labels_B, settings, int(of_mix))
    return images_BCHW, targets_BK


@contextmanager
def kept_generators() -> Iterator[None]:
    """Put Python's, numpy's and torch's generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def rand_augmented(images_BHWC: Tensor, policy: str, words_B: NDArray[np.uint32]) -> Tensor:
    """Images (B, H, W, 3) uint8 changed by two operations each, on the CPU by Pillow; no policy, none."""
    if not policy:
        return images_BHWC
    options = {
        "translate_const": int(SHIFT * images_BHWC.shape[1]),
        "img_mean": tuple(round(255 * mean) for mean in IMAGENET_MEAN),
        "interpolation": Image.Resampling.BICUBIC,
    }
    change = rand_augment_transform(policy, options)
    for operation in change.ops:
        if operation.name == "PosterizeIncreasing":
            operation.aug_fn = posterized
    changed = []
    for image_HWC, word in zip(images_BHWC.cpu().numpy(), words_B.tolist(), strict=True):
        random.seed(word)
        np.random.seed(word)
        changed.append(np.asarray(change(Image.fromarray(image_HWC))))
    return torch.from_numpy(np.stack(changed)).to(images_BHWC.device)


def posterized(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Keep so many bits of each value; for none, timm's strongest, black, where newer Pillows refuse."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def erase(images_BCHW: Tensor, share: float, words_B: NDArray[np.uint32]) -> None:
    """Put normal noise into one rectangle of a share of the images, in place."""
    if not share:
        return
    eraser = RandomErasing(share, mode="pixel", device=str(images_BCHW.device))
    for image_CHW, word in zip(images_BCHW, words_B.tolist(), strict=True):
        random.seed(word)
        torch.manual_seed(word)
        eraser(image_CHW)


def mixed(
    images_BCHW: Tensor, labels_B: Tensor, settings: FinetuneSettings, word: int
) -> tuple[Tensor, Tensor]:
    """Images mixed with the reversed micro-batch, in place, and targets (B, K) mixed and smoothed."""
    if not (settings.mixup or settings.cutmix):
        return images_BCHW, mixup_target(labels_B, settings.classes, 1.0, settings.smoothing)
    np.random.seed(word)
    mix = Mixup(
        mixup_alpha=settings.mixup,
        cutmix_alpha=settings.cutmix,
        label_smoothing=settings.smoothing,
        num_classes=settings.classes,
    )
    images_BCHW, targets_BK = mix(images_BCHW, labels_B)
    return images_BCHW, targets_BK
