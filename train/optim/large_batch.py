"""LAMB and LARS for large batches: timm's, with the finite check and the clipping of a fused AdamW.

Both scale a weight's step by the ratio of its norm to that of its change; weights without decay are not
scaled.  They wait for the device once a step, to learn whether it is finite.  Sources: LAMB arXiv:1904.00962,
without its own clipping; LARS arXiv:1708.03888, with its trust coefficient of 0.001.
"""

import torch
from timm.optim import lamb, lars
from torch import Tensor
from torch.distributed.tensor import DTensor

from turbomim.train.models.sharding import own_part
from turbomim.train.optim.groups import Named, chosen, plain
from turbomim.train.optim.state import KEEPS, MOMENTUM, STEP, zero_moments
from turbomim.train.settings.optim import OptimConfig


class Lamb(lamb.Lamb):
    """LAMB over groups of (name, parameter); found_inf and grad_scale as torch's scaler sets them."""

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, groups: list[Named], optim: OptimConfig) -> None:
        super().__init__(
            _filled(groups),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            max_grad_norm=None,
            foreach=_foreach(groups),
        )
        zero_moments(self)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step, unless it is not finite."""
        if not _is_finite(self):
            return
        # timm counts the steps of a group, a checkpoint those of each parameter
        for group in self.param_groups:
            group[STEP] = self.state[group["params"][0]][STEP]
        super().step()  # type: ignore[no-untyped-call]
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param][STEP] = group[STEP]


class Lars(lars.Lars):
    """LARS over groups of (name, parameter); found_inf and grad_scale as torch's scaler sets them."""

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, groups: list[Named], optim: OptimConfig) -> None:
        super().__init__(
            [{**group, KEEPS: MOMENTUM} for group in _filled(groups)],
            lr=optim.lr,
            momentum=optim.momentum,
            foreach=_foreach(groups),
        )
        zero_moments(self)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step, unless it is not finite."""
        if _is_finite(self):
            super().step()  # type: ignore[no-untyped-call]


def _filled(groups: list[Named]) -> list[Named]:
    """The groups as torch has them, without those that are empty."""
    return plain(chosen(groups, lambda *_: True))


def _foreach(groups: list[Named]) -> bool | None:
    """False where parameters are split, as torch adds up their norms one by one; None: timm chooses."""
    split = any(isinstance(param, DTensor) for group in groups for _, param in group["params"])
    return False if split else None


def _is_finite(optimizer: Lamb | Lars) -> bool:
    """Whether the step is to be taken; then its gradients are scaled."""
    if optimizer.found_inf is not None and bool(optimizer.found_inf):
        return False
    if optimizer.grad_scale is not None:
        params = (param for group in optimizer.param_groups for param in group["params"])
        torch._foreach_div_([own_part(param.grad) for param in params], optimizer.grad_scale)
    return True
