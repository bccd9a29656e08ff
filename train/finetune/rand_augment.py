"""RandAugment in two steps: the first draws the operations, the second applies them, in any thread.

timm's RandAugment draws from Python's and numpy's global generators, which threads would share, and changes
the image in the same call.  Here its operations only record what they were given.  Applying them draws
nothing: the filter is fixed, and timm's one operation that draws, GaussianBlurRand, is in none of its lists
for RandAugment.  So pixels are the same on any number of threads, and Pillow lets others run meanwhile.

Shapes: B samples, C colours, H W pixels.
"""

# timm types little of its augmentations
# mypy: allow-untyped-calls

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data.auto_augment import posterize, rand_augment_transform

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.settings.config import IMAGENET_MEAN

# largest shift, as a fraction of the side, as timm's training transform has it
SHIFT = 0.45

Operation = Callable[[Image.Image], Image.Image]
# operations on one image, in order
Changes = tuple[Operation, ...]


def recording_rand_augment(policy: str, side: int) -> Callable[[Changes], Changes]:
    """timm's RandAugment for square images of a side: it draws operations, and adds them to those given.

    timm hands each operation what the one before it returned.  That is an image; here it is the tuple of the
    operations so far, from () on.  No policy, no operation.  Raises UsageError for a policy unknown to timm.
    """
    if not policy:
        return lambda changes: changes
    options = {
        "translate_const": int(SHIFT * side),
        "img_mean": tuple(round(255 * mean) for mean in IMAGENET_MEAN),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        rand_augment = rand_augment_transform(policy, options)
    except (AssertionError, KeyError, ValueError) as error:
        raise UsageError(
            f"finetune.rand_augment = {policy!r}: timm knows no such policy ({error}); give one like "
            "rand-m9-mstd0.5-inc1, or '' for none"
        ) from error
    for operation in rand_augment.ops:
        operation.aug_fn = partial(_record_operation, operation.aug_fn)
    recording: Callable[[Changes], Changes] = rand_augment
    return recording


def draw_changes(policy: str, side: int, words_B: NDArray[np.uint32]) -> list[Changes]:
    """What RandAugment does to square images of a side, each drawn from its own word.

    Seeds Python's and numpy's generators, so one thread at a time, and leaves them as they were.
    """
    draw_operations = recording_rand_augment(policy, side)
    changes_B = []
    with restoring_generators():
        for word in words_B.tolist():
            random.seed(word)
            np.random.seed(word)
            changes_B.append(draw_operations(()))
    return changes_B


@contextmanager
def restoring_generators() -> Iterator[None]:
    """Put Python's and numpy's generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _record_operation(
    function: Callable[..., Image.Image], before: Changes, *values: float, **options: object
) -> Changes:
    if function is posterize:
        function = posterized
    return *before, lambda image: function(image, *values, **options)


def posterized(image: Image.Image, bits: int, **options: object) -> Image.Image:
    """Keep so many bits of each value; 0, timm's strongest, gives black as older Pillow did: newer raises."""
    return posterize(image, bits, **options) if bits else Image.new(image.mode, image.size)


def apply_changes(pixels_HWC: NDArray[np.uint8], changes: Changes) -> None:
    """Change an image in place; safe in any thread."""
    if not changes:
        return
    image = Image.fromarray(pixels_HWC)
    for operation in changes:
        image = operation(image)
    pixels_HWC[:] = np.asarray(image)
