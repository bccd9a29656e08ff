"""What an optimizer keeps of each parameter, by the names that checkpoints have.

A group of parameters may name it under KEEPS; AdamW's, which is torch's own, does not.
"""

import torch
from torch import Tensor

# the count of steps, () float32; the others have their parameter's shape
STEP = "step"
ADAM = ("exp_avg", "exp_avg_sq", STEP)
MOMENTUM = ("momentum_buffer",)
# where a group says what is kept of its parameters
KEEPS = "keeps"


def kept_names(optimizer: torch.optim.Optimizer) -> dict[Tensor, tuple[str, ...]]:
    """The names of what is kept of each parameter."""
    return {param: group.get(KEEPS, ADAM) for group in optimizer.param_groups for param in group["params"]}


def zero_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give a new optimizer the state that it would create at its first step: zeros."""
    for param, names in kept_names(optimizer).items():
        optimizer.state[param] = {
            name: torch.zeros(()) if name == STEP else torch.zeros_like(param) for name in names
        }
