"""RandAugment in two parts: what changes an image is drawn first, and done later, in any thread.

timm's RandAugment draws from Python's and numpy's own generators, which threads would share, and changes the
image in the same call.  Here its operations only note what they were given.  What is left draws nothing, so
it is the same on any number of threads; and Pillow, which does it, lets other threads run meanwhile.

Shapes: B samples, C colours, H W pixels.
"""

# timm types little of its augmentations
# mypy: allow-untyped-calls

from __future__ import annotations

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

# of the side: how far an image is shifted at most, as timm's training transform has it
SHIFT = 0.45

Change = Callable[[Image.Image], Image.Image]
# of an image, in order
Changes = tuple[Change, ...]


def recording_rand_augment(policy: str, side: int) -> Callable[[Changes], Changes]:
    """RandAugment of timm for images of a side: it draws, and adds to changes in place of making them.

    No policy, no change.  Raises UsageError for a policy that timm does not know.
    """
    if not policy:
        return lambda changes: changes
    options = {
        "translate_const": int(SHIFT * side),
        "img_mean": tuple(round(255 * mean) for mean in IMAGENET_MEAN),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        draw = rand_augment_transform(policy, options)
    except (AssertionError, KeyError, ValueError) as error:
        raise UsageError(
            f"finetune.rand_augment = {policy!r}: timm knows no such policy ({error}); give one like "
            "rand-m9-mstd0.5-inc1, or '' for none"
        ) from error
    for operation in draw.ops:
        operation.aug_fn = partial(_record_change, operation.aug_fn)
    # it hands each operation what the one before it returned
    noting: Callable[[Changes], Changes] = draw
    return noting


def draw_changes(policy: str, side: int, words_B: NDArray[np.uint32]) -> list[Changes]:
    """What RandAugment does to images of a side, each drawn from its own word.

    Uses Python's and numpy's generators, so one thread at a time, and leaves them as they were.
    """
    draw = recording_rand_augment(policy, side)
    found = []
    with restoring_generators():
        for word in words_B.tolist():
            random.seed(word)
            np.random.seed(word)
            found.append(draw(()))
    return found


@contextmanager
def restoring_generators() -> Iterator[None]:
    """Put Python's and numpy's generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _record_change(
    function: Callable[..., Image.Image], before: Changes, *values: float, **options: object
) -> Changes:
    if function is posterize:
        function = posterized
    return *before, lambda image: function(image, *values, **options)


def posterized(image: Image.Image, bits: int, **options: object) -> Image.Image:
    """Keep so many bits of each value; for none, timm's strongest, black, where newer Pillows refuse."""
    return posterize(image, bits, **options) if bits else Image.new(image.mode, image.size)


def apply_changes(pixels_HWC: NDArray[np.uint8], changes: Changes) -> None:
    """Change an image in place; safe in any thread."""
    if not changes:
        return
    image = Image.fromarray(pixels_HWC)
    for one in changes:
        image = one(image)
    pixels_HWC[:] = np.asarray(image)
