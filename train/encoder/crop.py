"""The crop of an image that is scored, and that frozen features are learnt from: one rule for all commands.

The short side is resized to the size over the share, bicubic, and the central square is taken.
Suffixes: N samples, B images of a batch, S the crop's side.
"""

from collections.abc import Callable, Iterator
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops, say_left_out
from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.tars.split import Split
from turbomim.train.machine.processor import cores
from turbomim.train.settings.config import Config
from turbomim.train.settings.finetune import FinetuneConfig

INTERPOLATION: Final[Literal["bicubic"]] = "bicubic"


def crop_share(size: int) -> float:
    """The published share of a test crop: 224 of 256, and all above 224; all below 64, where little is left.

    Source: MAE's test transform; the limit at 64 is ours.
    """
    return 0.875 if 64 <= size <= 224 else 1.0


def scored_crop(size: int) -> CentreCrop:
    """The crop of this side."""
    return CentreCrop(size=size, interpolation=INTERPOLATION, share=crop_share(size))


def own_crop(config: Config) -> CentreCrop:
    """The crop that a fine-tuning is tested on; of a pre-training the scored one."""
    if not isinstance(config, FinetuneConfig):
        return scored_crop(config.data.size)
    return CentreCrop(
        size=config.data.size, interpolation=config.data.interpolation, share=config.finetune.test_crop
    )


def crop_facts(crop: CentreCrop | int) -> dict[str, object]:
    """What a result says about the crops that it is of, or of scored ones of this side."""
    crop = scored_crop(crop) if isinstance(crop, int) else crop
    return {"size": crop.size, "crop": crop.share, "interpolation": crop.interpolation}


def eval_crops(
    split: Split,
    ids_N: NDArray[np.int64],
    *,
    size: int,
    batch: int,
    left_out: Callable[[int, str], None] = say_left_out,
    journal: Journal | None = None,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield crops (B, S, S, 3) uint8 and labels (B,) int64 of a split's samples, as `centre_crops` does."""
    crop = scored_crop(size)
    return centre_crops(split, ids_N, crop, batch=batch, threads=cores(), left_out=left_out, journal=journal)
