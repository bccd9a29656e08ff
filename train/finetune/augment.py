"""What fine-tuning does to a micro-batch after RandAugment: random erasing, mixup or cutmix, on its device.

What timm draws it takes from Python's and numpy's own generators.  So these are seeded first: for an image
from (seed, epoch, sample id), for what a micro-batch shares from (seed, its position).  A batch is then the
same however often the run was stopped, and on however many ranks of the same micro-batch.  The host draws and
the device changes: neither waits for the other.

Shapes: B samples, C colours, H W pixels, K classes.
"""

# timm types little of its augmentations
# mypy: allow-untyped-calls

from __future__ import annotations

import numpy as np
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from turbomim.pipeline.stream.philox import MIX, draw_u32
from turbomim.train.encoder.features import normalised
from turbomim.train.finetune.augment_ahead import Augmented
from turbomim.train.finetune.erase import draw_rectangles, erase
from turbomim.train.finetune.rand_augment import restoring_generators
from turbomim.train.settings.finetune import FinetuneSettings


def augmented_batch(batch: Augmented, settings: FinetuneSettings, seed: int) -> tuple[Tensor, Tensor]:
    """Normalised images (B, 3, H, W) and targets (B, K), shares of classes; float32, on their device."""
    ((of_mix,),) = draw_u32(seed, np.zeros(1, np.int64), np.array([batch.position]), MIX, 1)
    images_BCHW = normalised(batch.images_BHWC)
    height, width = images_BCHW.shape[2:]
    with restoring_generators():
        if settings.erase:
            rectangles_5R = draw_rectangles(settings.erase, height, width, batch.words_B)
            erase(images_BCHW, rectangles_5R, seed, batch.epochs_B, batch.ids_B)
        return mix_batch(images_BCHW, batch.labels_B, settings, int(of_mix))


def mix_batch(
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
