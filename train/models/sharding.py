"""FSDP2: weights, gradients and moments split over the ranks; the numbers are those of DDP."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from turbomim.train.models.mae import MAE
from turbomim.train.models.simmim_swin import POSITIONS
from turbomim.train.settings.config import StepConfig
from turbomim.train.world.distributed import World


def shard(model: MAE, world: World, config: StepConfig, *, bfloat16: bool) -> None:
    """Split a model over all ranks, in place: a group for each block, one for what is left.

    A whole graph cannot hold the exchange of weights, so here it is the blocks that are compiled.
    bfloat16: that is how a block's weights are sent, half the bytes; gradients are sent in float32.  Autocast
    rounds all but the norms' weights to it anyway.  A Swin's are sent in float32: its attention's scale has
    other gradients once it is rounded.
    """
    rounded = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in model.blocks_to_split():
        if config.compile:
            compiled = torch.compile(block.forward, fullgraph=True, dynamic=False)
            # not the block itself, whose names would change
            setattr(block, "forward", compiled)  # noqa: B010
        exact = any(part in name for name, _ in block.named_parameters() for part in POSITIONS)
        policy = rounded if bfloat16 and not exact else MixedPrecisionPolicy()
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be split over ranks; then every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be split: a change of it is a change of the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def own_rows(split: DTensor) -> slice:
    """The rows of a split tensor that are this rank's; none where there are fewer rows than ranks."""
    # as torch.chunk cuts
    rows, each = len(split), -(-len(split) // split.device_mesh.size())
    begin = min(each * split.device_mesh.get_local_rank(), rows)
    return slice(begin, min(begin + each, rows))


def placed_rows(rows: Tensor, split: DTensor) -> DTensor:
    """This rank's rows as its part of a tensor that is split as another one; nothing is sent."""
    rows = rows.to(split.device)
    shape, stride = split.shape, split.stride()
    return DTensor.from_local(
        rows, split.device_mesh, split.placements, run_check=False, shape=shape, stride=stride
    )


def placed_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which every rank has, on the device of another one and split as that is."""
    if isinstance(other, DTensor):
        return placed_rows(value[own_rows(other)], other)
    return value.to(other.device)


def host_copies(named: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole copies in host memory, in the same order; every rank must call it, those with `keep` get them."""
    copies = {}
    for name, tensor in named.items():
        full = whole(tensor.detach())
        if keep:
            # a GPU writes into pinned memory while the next copies are asked for
            copy = torch.empty(full.shape, dtype=full.dtype, pin_memory=full.is_cuda)
            copies[name] = copy.copy_(full, non_blocking=True)
    if keep and any(tensor.is_cuda for tensor in named.values()):
        torch.cuda.synchronize()
    return copies


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Every weight of a model in host memory; every rank must call it."""
    return host_copies(model.state_dict(), keep=True)
