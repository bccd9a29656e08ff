"""What fine-tuning does to a micro-batch after RandAugment: random erasing, mixup or cutmix, on its device.

timm draws from Python's and numpy's global generators, so they are seeded before each use: for one image from
(seed, epoch, sample id), for what is common to a micro-batch from (seed, position of its first sample in the
run).  A batch is then the same after any number of stops, and for any number of ranks if the micro-batch is
the same.  timm's choices are drawn on the CPU, noise and pixels are made on the device: no one waits.

Shapes: B samples, C colours, H W pixels, K classes.
"""

# timm types little of its augmentations
# mypy: allow-untyped-calls

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
    """Normalised images (B, 3, H, W) and soft targets (B, K); float32, on their device."""
    # no epoch, and the position in place of a sample's id
    mix_word = draw_u32(seed, np.zeros(1, np.int64), np.array([batch.position]), MIX, 1)[0, 0]
    images_BCHW = normalised(batch.images_BHWC)
    height, width = images_BCHW.shape[2:]
    if settings.erase:
        rectangles_5R = draw_rectangles(settings.erase, height, width, batch.words_B)
        erase(images_BCHW, rectangles_5R, seed, batch.epochs_B, batch.ids_B)
    return mix_batch(images_BCHW, batch.labels_B, settings, int(mix_word))


def mix_batch(
    images_BCHW: Tensor, labels_B: Tensor, settings: FinetuneSettings, mix_word: int
) -> tuple[Tensor, Tensor]:
    """Images mixed with the reversed micro-batch, in place, and soft targets (B, K), mixed and smoothed.

    mix_word: seeds numpy's generator, which is left as it was.
    """
    if not (settings.mixup or settings.cutmix):
        return images_BCHW, mixup_target(labels_B, settings.classes, 1.0, settings.smoothing)
    mix = Mixup(
        mixup_alpha=settings.mixup,
        cutmix_alpha=settings.cutmix,
        label_smoothing=settings.smoothing,
        num_classes=settings.classes,
    )
    with restoring_generators():
        np.random.seed(mix_word)
        images_BCHW, targets_BK = mix(images_BCHW, labels_B)
    return images_BCHW, targets_BK
