"""AdamW and its parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from turbomim.train.config import OptimConfig


def decayed(name: str, param: torch.Tensor, decay_tokens: bool) -> bool:
    """Whether weight decay applies: not to vectors and biases.

    To cls_token and mask_token as MAE does, unless told.

    Source: timm's rule (no decay iff 1-D or name ends in .bias), 167 and 85 tensors of ViT-B.
    """
    if param.ndim <= 1 or name.endswith(".bias"):
        return False
    return decay_tokens or not name.endswith(("cls_token", "mask_token"))


def make_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters in two groups, [decayed, not decayed]."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    with_decay = [p for n, p in named if decayed(n, p, optim.decay_tokens)]
    without = [p for n, p in named if not decayed(n, p, optim.decay_tokens)]
    groups = [
        {"params": with_decay, "weight_decay": optim.weight_decay},
        {"params": without, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)
