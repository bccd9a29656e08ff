"""The optimizer of a run, by `optim.name`."""

import torch
from torch import nn

from turbomim.train.optim.adamw import fused_adamw
from turbomim.train.optim.groups import Named, decayed, plain
from turbomim.train.optim.large_batch import Lamb, Lars
from turbomim.train.optim.muon import Muon
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.world.distributed import World

# a process without others
ALONE = World(device=torch.device("cpu"))


def make_optimizer(
    model: nn.Module, optim: OptimConfig, *, bfloat16: bool = False, world: World = ALONE
) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters in two groups, [decayed, not decayed].

    bfloat16: whether the matrix products of a step are; world: of the ranks that have the model, or its
    parts.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    by_mistake: tuple[str, ...] = getattr(model, "published_slips", ()) if optim.published_slips else ()
    with_decay = [(n, p) for n, p in named if decayed(n, p, optim.decay_tokens, by_mistake)]
    without = [(n, p) for n, p in named if not decayed(n, p, optim.decay_tokens, by_mistake)]
    groups: list[Named] = [
        {"params": with_decay, "weight_decay": optim.weight_decay},
        {"params": without, "weight_decay": 0.0},
    ]
    return optimizer_of(groups, optim, bfloat16=bfloat16, world=world)


def optimizer_of(
    groups: list[Named], optim: OptimConfig, *, bfloat16: bool, world: World
) -> torch.optim.Optimizer:
    """The optimizer of `optim.name` over groups of (name, parameter), the first at the full rate."""
    if optim.name == "muon":
        return Muon(groups, optim, bfloat16=bfloat16, world=world)
    if optim.name == "lamb":
        return Lamb(groups, optim)
    if optim.name == "lars":
        return Lars(groups, optim)
    return fused_adamw(plain(groups), optim)
