"""FSDP2: weights, gradients and moments split over the ranks; the numbers are those of DDP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from turbomim.train.config import StepConfig
from turbomim.train.distributed import World
from turbomim.train.models.mae import MAE


def shard(model: MAE, world: World, config: StepConfig) -> None:
    """Split a model over all ranks, in place: a group for each block, one for what is left.

    A whole graph cannot hold the exchange of weights, so here it is the blocks that are compiled.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.blocks_to_split():
        if config.compile:
            compiled = torch.compile(block.forward, fullgraph=True, dynamic=False, mode=config.compile_mode)
            # not the block itself, whose names would change
            setattr(block, "forward", compiled)  # noqa: B010
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be split over ranks; then every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which every rank has, on the device of another one and split as that is."""
    value = value.to(other.device)
    if isinstance(other, DTensor):
        # None: nothing is sent, each rank cuts its own part
        return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)
    return value


def host_copies(named: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole copies in host memory, in the same order; every rank must call it, those with `keep` get them."""
    copies = {}
    for name, tensor in named.items():
        full = whole(tensor.detach())
        if keep:
            copies[name] = full.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return copies


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight of a model in host memory; every rank must call it."""
    return host_copies(model.state_dict(), keep=True)
