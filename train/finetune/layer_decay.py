"""Layer-wise rates: the nearer to the image, the smaller the steps.

scale = decay ** (blocks + 1 - layer).  Layer 0: embeddings; layer i + 1: block i; layer blocks + 1: norm and
head, at the full rate.  Source: BEiT's rule as MAE's and SimMIM's fine-tuning have it.
"""

import re
from collections import defaultdict

import torch
from torch import nn

from turbomim.train.optim.groups import decayed
from turbomim.train.optim.make import ALONE, optimizer_of
from turbomim.train.settings.finetune import FinetuneConfig
from turbomim.train.world.distributed import World

EMBEDDINGS = ("cls_token", "mask_token", "pos_embed", "patch_embed", "blocks1.", "blocks2.")


def depths_of(config: FinetuneConfig) -> list[int]:
    """Blocks of each stage; for ConvMAE only of stage 3, as published."""
    swin = config.model.method.startswith("simmim-swin")
    return config.model.depths if swin else [config.model.depth]


def layer_of(name: str, depths: list[int]) -> int:
    """The layer of a parameter of the encoder by its name, 0 to blocks + 1.

    ConvMAE's first two stages are embeddings.  A Swin's merging belongs to the block before it, the last of
    the previous stage: timm names it by the stage after it.  Raises ValueError for a name of no layer.
    """
    if plain := re.match(r"(?:blocks3?|rel_pos_bias)\.(\d+)\.", name):
        return int(plain[1]) + 1
    if staged := re.match(r"layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.", name):
        before = sum(depths[: int(staged[1])])
        return before + int(staged[2]) + 1 if staged[2] else before
    if name.startswith(EMBEDDINGS):
        return 0
    if name.startswith("norm."):
        return sum(depths) + 1
    raise ValueError(f"{name} is a parameter of no known layer: name its layer in `layer_of`")


def layer_scale(layer: int, depths: list[int], decay: float) -> float:
    """Factor on the learning rate of a layer."""
    return float(decay ** (sum(depths) + 1 - layer))


def layered_optimizer(
    model: nn.Module, config: FinetuneConfig, *, bfloat16: bool = False, world: World = ALONE
) -> torch.optim.Optimizer:
    """The optimizer in groups of a layer each, those with weight decay apart, the full rate first.

    No decay of vectors, biases, tokens and positions.  The step multiplies a group's rate by its `lr_scale`.
    bfloat16, world: as those of `make_optimizer`.
    """
    optim, depths = config.optim, depths_of(config)
    groups: dict[tuple[int, bool], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        inside = name.removeprefix("encoder.")
        layer = layer_of(inside, depths) if name.startswith("encoder.") else sum(depths) + 1
        decays = decayed(inside, param, decay_tokens=False) and not inside.endswith("pos_embed")
        groups[layer, decays].append((inside, param))
    in_order = [
        {
            "params": groups[key],
            "weight_decay": optim.weight_decay if key[1] else 0.0,
            "lr_scale": layer_scale(key[0], depths, config.finetune.layer_decay),
        }
        for key in sorted(groups, reverse=True)
    ]
    return optimizer_of(in_order, optim, bfloat16=bfloat16, world=world)
