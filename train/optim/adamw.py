"""Torch's fused AdamW, with the settings of a run."""

from typing import Any

import torch

from turbomim.train.settings.optim import OptimConfig


def fused_adamw(groups: list[dict[str, Any]], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over groups of parameters, at the rate before layer decay; one kernel steps all of them."""
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)
