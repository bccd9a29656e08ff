"""AdamW and its parameter groups."""

from typing import Any

import torch
from torch import nn

from turbomim.train.models.simmim_swin import POSITIONS
from turbomim.train.settings.optim import OptimConfig


def decayed(name: str, param: torch.Tensor, decay_tokens: bool, by_mistake: tuple[str, ...] = ()) -> bool:
    """Whether weight decay applies: not to vectors, biases and POSITIONS.

    It applies to cls_token and mask_token if `decay_tokens`, as in MAE.  by_mistake: parts of names that
    published code decays though it means to spare them.

    Source: timm's rule (no decay iff 1-D or name ends in .bias), 167 and 85 tensors of ViT-B; POSITIONS are
    the names that Swin's code spares, or in SimMIM means to.
    """
    if param.ndim <= 1 or name.endswith(".bias"):
        return False
    if any(part in name for part in by_mistake):
        return True
    if any(part in name for part in POSITIONS):
        return False
    return decay_tokens or not name.endswith(("cls_token", "mask_token"))


def make_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters in two groups, [decayed, not decayed]."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    by_mistake: tuple[str, ...] = getattr(model, "published_slips", ()) if optim.published_slips else ()
    with_decay = [p for n, p in named if decayed(n, p, optim.decay_tokens, by_mistake)]
    without = [p for n, p in named if not decayed(n, p, optim.decay_tokens, by_mistake)]
    groups = [
        {"params": with_decay, "weight_decay": optim.weight_decay},
        {"params": without, "weight_decay": 0.0},
    ]
    return fused_adamw(groups, optim)


def fused_adamw(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over groups of parameters, at the rate before layer decay; one kernel steps all of them."""
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)


def zero_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give a new AdamW the state that it would create at its first step: zeros."""
    for param in (param for group in optimizer.param_groups for param in group["params"]):
        zeros = {key: torch.zeros_like(param) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[param] = {"step": torch.zeros(()), **zeros}
