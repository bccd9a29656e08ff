"""A recipe of each family with a small model and image; the rest of it stays."""

from __future__ import annotations

import dataclasses
from typing import Any

from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config

DECODER = {"decoder_width": 32, "decoder_depth": 2, "decoder_heads": 2}
ENCODER = {"patch": 8, "width": 32, "depth": 2, "heads": 2}
VIT = {**ENCODER, **DECODER}
MFF = {**VIT, "fuse": "0,1"}
CONV = {"width": 32, "depth": 1, "heads": 2, "conv_widths": "16,24", "conv_depths": "1,1", **DECODER}
SWIN = {"width": 16, "heads": 2, "stages": "2,2", "window": 3, "mask_unit": 2}
# one of each family with what makes it small; those of other lengths and sizes share its mathematics
FAMILIES: dict[str, dict[str, Any]] = {
    "demo": VIT,
    "cifar10-vit-t4": VIT,
    "cifar10-pixmim-vit-t4": VIT,
    "cifar10-mff-vit-t4": MFF,
    "cifar10-pixmim-mff-vit-t4": MFF,
    "mae-vit-b16-800e": VIT,
    "pixmim-vit-b16-300e": VIT,
    "pixmim-ideal-vit-b16-300e": VIT,
    "mff-vit-b16-300e": MFF,
    "pixmim-mff-vit-b16-800e": MFF,
    "lsmae-vit-b16-800e": VIT,
    "convmae-b-1600e": CONV,
    "fastconvmae-b-50e": CONV,
    "simmim-vit-b16-800e": ENCODER,
    "simmim-swin-b-100e": SWIN,
    "simmim-swinv2-b-800e": {**SWIN, "norm_window": 11},
}


def smaller(name: str) -> Config:
    """The recipe with its small model, on images of 48 pixels, a ConvMAE's of 64."""
    config = recipe(name)
    # a quarter of a ConvMAE's patches of 16 pixels is a whole number of them
    size = 64 if config.model.method == "convmae" else 48
    # the cut-off is in cycles per image: the same in pixels
    radius = max(1.0, config.model.radius * size / config.data.size)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, size=size),
        model=dataclasses.replace(config.model, **FAMILIES[name], radius=radius),
    )
