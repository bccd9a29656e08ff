"""LARS, the optimizer of the published linear probe.

It scales a matrix's gradient by 0.001 x |weight| / |gradient|, then comes momentum, then the rate; vectors
are left as they are.  Source: arXiv:1708.03888 as MAE's probe has it; timm's Lars does the same, with 1e-8
beside the gradient's norm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.optim.lars import Lars
from torch import nn

MOMENTUM = 0.9
TRUST = 0.001


def make_lars(head: nn.Module) -> torch.optim.Optimizer:
    """LARS over a head's parameters, without weight decay."""
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "always_adapt": True}, {"params": vectors, "always_adapt": False}]
    # not every timm has its annotations
    make: Callable[..., torch.optim.Optimizer] = Lars
    return make(groups, momentum=MOMENTUM, weight_decay=0.0, trust_coeff=TRUST)
