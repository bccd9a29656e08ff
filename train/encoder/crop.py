"""The crop of an image that is scored, and that frozen features are learnt from: one rule for all commands.

The short side is resized to the size over the share, bicubic, and the central square is taken.
Suffixes: N samples, B images of a batch, S the crop's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.centre_crops import centre_crops
from turbomim.pipeline.decoding.crop import Interpolation
from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.tars.split import Split
from turbomim.train.machine.processor import cores

INTERPOLATION: Final[Literal["bicubic"]] = "bicubic"


class Rule(TypedDict):
    """Arguments of `centre_crop` besides the size."""

    interpolation: Interpolation
    share: float


def crop_share(size: int) -> float:
    """The published share of a test crop: 224 of 256, and all above 224; all below 64, where little is left.

    Source: MAE's test transform; the limit at 64 is ours.
    """
    return 0.875 if 64 <= size <= 224 else 1.0


def crop_rule(size: int) -> Rule:
    """How a crop of this side is made."""
    return {"interpolation": INTERPOLATION, "share": crop_share(size)}


def crop_facts(size: int) -> dict[str, object]:
    """What a result says about the crops that it is of."""
    return {"size": size, "crop": crop_share(size), "interpolation": INTERPOLATION}


def eval_crops(
    split: Split,
    ids_N: NDArray[np.int64],
    *,
    size: int,
    batch: int,
    left_out: Callable[[str], None] | None = None,
    journal: Journal | None = None,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield crops (B, S, S, 3) uint8 and labels (B,) int64 of a split's samples, as `centre_crops` does."""
    return centre_crops(
        split,
        ids_N,
        size=size,
        batch=batch,
        threads=cores(),
        left_out=left_out,
        journal=journal,
        **crop_rule(size),
    )
