"""What an optimizer keeps of each parameter, by the names that checkpoints have.

A group of parameters may name it under KEEPS; AdamW's, which is torch's own, does not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from turbomim.pipeline.system.errors import UserError

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


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as {'PARAMETER/KEY': tensor}, named by the model's parameters."""
    tensors: dict[str, Tensor] = {}
    for name, param in model.named_parameters():
        for key, value in optimizer.state.get(param, {}).items():
            tensors[f"{name}/{key}"] = value
    return tensors


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave, or this rank's part of it.

    Raises UserError where it is not this model's.
    """
    params, keys = {n: p for n, p in model.named_parameters() if p.requires_grad}, kept_names(optimizer)
    expected = {f"{name}/{key}" for name, param in params.items() for key in keys[param]}
    if other := sorted(expected ^ set(tensors)):
        raise UserError(
            f"checkpoint's optimizer belongs to another model: {len(other)} tensors do not match, "
            f"{other[0]!r} first"
        )
    for full, value in tensors.items():
        name, key = full.rsplit("/", 1)
        param = params[name]
        shape = () if key == STEP else tuple(param.shape)
        if tuple(value.shape) != shape or value.dtype != torch.float32:
            raise UserError(
                f"checkpoint's optimizer belongs to another model: {full} is {tuple(value.shape)} "
                f"{value.dtype}, must be {shape} torch.float32"
            )
        # the step count of a fused optimizer lives on the parameter's device, as float32
        optimizer.state[param][key] = value.to(param.device)
