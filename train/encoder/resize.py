"""An encoder for images of another side than it was trained on: positions resampled as published.

Absolute positions by bicubic resampling; the tables of relative ones (SimMIM's ViT, Swin) on a geometric
grid, BEiT's way by timm, the class token's three rows as they are; SwinV2's need none, as they are
continuous.  A Swin's windows grow with the image, 6 at 192 pixels to 7 at 224.
Source: the fine-tuning of facebookresearch/mae, microsoft/SimMIM and microsoft/Swin-Transformer, which
interpolate tables by cubic splines where timm does it linearly.

Shapes: T tokens, prefix ones first; N patches, G patches a side, D encoder width.
"""

import warnings
from dataclasses import replace
from math import gcd
from typing import Any

import torch
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor
from torch.nn import functional

from turbomim.pipeline.system.errors import need
from turbomim.train.models.classifier import AnyEncoder, fresh
from turbomim.train.settings.config import AnyConfig, Config
from turbomim.train.settings.dictionary import from_dict


def at_size(config: AnyConfig, size: object) -> AnyConfig:
    """The settings for whole images of another side, pixels, a number or a flag's text; None: of the same.

    Raises UsageError for a side that patches, merging or windows do not divide.
    """
    if config.data.sizes:
        # which images came first in pre-training is of no matter any more
        config = replace(config, data=replace(config.data, sizes=""))
    if size is None:
        return config
    # no mask is drawn of whole images and nothing is predicted: none of these settings may refuse a size
    unmasked = replace(config.model, mask="random", mask_unit=1, complementary=False, target="raw")
    wanted = from_dict({"data": {"size": size}}, replace(config, model=unmasked), "flags")
    before, now, model = config.data.size, wanted.data.size, config.model
    if now == before:
        return config
    if now > before:
        # a larger image has every frequency of the filter
        unmasked = replace(unmasked, target=model.target)
        wanted = replace(wanted, model=unmasked)
    if not model.method.startswith("simmim-swin"):
        return wanted
    legal = f"a multiple of {before // gcd(before, model.window)}, as windows of {model.window} tokens grow"
    need(model.window * now % before == 0, "data.size", now, f"{legal} with the image from {before} pixels")
    windows = model.pretrained_windows
    if model.method == "simmim-swinv2" and not windows:
        stages = range(len(model.depths))
        windows = ",".join(str(min(model.window, config.grid // 2**stage)) for stage in stages)
    wider = replace(unmasked, window=model.window * now // before, pretrained_windows=windows)
    return replace(wanted, model=wider)


def resized(model: AnyEncoder, config: Config, wanted: Config) -> AnyEncoder:
    """A model of `config` as one of `wanted`, the settings of `at_size`; the same one at the same size."""
    if wanted.data.size == config.data.size:
        return model
    other = fresh(model, wanted)
    shapes = {name: value.shape for name, value in other.state_dict().items()}
    weights = model.state_dict()
    # fixed, and of a decoder that nothing reads any more
    weights.pop("decoder_pos_embed", None)
    for name, value in weights.items():
        if name.removeprefix("encoder.") == "pos_embed":
            weights[name] = resample_positions(value, wanted.grid, model.prefix)
        elif name.endswith("relative_position_bias_table"):
            owner: Any = other.get_submodule(name.rpartition(".")[0])
            with warnings.catch_warnings():
                # of how timm indexes tensors
                warnings.simplefilter("ignore", UserWarning)
                weights[name] = resize_rel_pos_bias_table(value, owner.window_size, tuple(shapes[name]))
    other.load_state_dict(weights, strict=False)
    return other


def resample_positions(positions_1TD: Tensor, grid: int, prefix: int = 1) -> Tensor:
    """Absolute positions (1, prefix + G*G, D) for another number of patches a side; the prefix's rows stay.

    Source: facebookresearch/mae, mmpretrain, mmseg, ViTDet and transformers: bicubic, corners not aligned, no
    antialiasing, which timm has.
    """
    prefix_1TD, patches_1ND = positions_1TD[:, :prefix], positions_1TD[:, prefix:]
    old = round(patches_1ND.shape[1] ** 0.5)
    if old == grid:
        return positions_1TD
    map_1DGG = patches_1ND.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    map_1DGG = functional.interpolate(map_1DGG, (grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([prefix_1TD, map_1DGG.flatten(2).transpose(1, 2)], dim=1).contiguous()
