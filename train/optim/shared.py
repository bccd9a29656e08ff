"""Work on many matrices, shared over the ranks: each takes as many, and all get every result.

Shapes: N matrices, A rows, B columns, R ranks, S matrices of one rank's share, C rows of one rank, F rows of
the first rank, which has the most.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.functional import pad

# gives a matrix of the same shape for each of (S, A, B)
Act = Callable[[Tensor], Tensor]


def on_whole(matrices_NAB: Tensor, act: Act, rank: int, ranks: int) -> Tensor:
    """`act` on matrices that every rank has; a rank's share is filled up with zeros."""
    if ranks == 1:
        return act(matrices_NAB)
    number = len(matrices_NAB)
    share = -(-number // ranks)
    mine_SAB = matrices_NAB[rank * share : (rank + 1) * share]
    mine_SAB = act(pad(mine_SAB, (0, 0, 0, 0, 0, share - len(mine_SAB))))
    every_NAB = mine_SAB.new_empty(ranks * share, *mine_SAB.shape[1:])
    dist.all_gather_into_tensor(_bytes(every_NAB), _bytes(mine_SAB.contiguous()))
    return every_NAB[:number]


def on_split(rows_NCB: Tensor, act: Act, like: DTensor) -> Tensor:
    """`act` on whole matrices of which every rank has some rows, split as `like`; back come the same rows.

    The rows of a matrix go to the rank that has it in its share, and come back: each is sent twice.
    """
    ranks, group = like.device_mesh.size(), like.device_mesh.get_group()
    number, rows, columns = rows_NCB.shape
    share, first = -(-number // ranks), -(-len(like) // ranks)
    padded = pad(rows_NCB, (0, 0, 0, first - rows, 0, ranks * share - number)).contiguous()
    # by the rank that has the rows, of the matrices of this rank's share
    given_RSFB = torch.empty_like(padded)
    dist.all_to_all_single(_bytes(given_RSFB), _bytes(padded), group=group)
    given_SRFB = given_RSFB.view(ranks, share, first, columns).transpose(0, 1)
    done_SAB = act(given_SRFB.reshape(share, ranks * first, columns)[:, : len(like)])
    # torch cuts rows as torch.chunk does: the last ranks have fewer, or none
    done = pad(done_SAB, (0, 0, 0, ranks * first - len(like))).view(share, ranks, first, columns)
    taken = done.transpose(0, 1).contiguous()
    back = torch.empty_like(taken)
    dist.all_to_all_single(_bytes(back), _bytes(taken), group=group)
    return back.view(ranks * share, first, columns)[:number, :rows]


def _bytes(tensor: Tensor) -> Tensor:
    """The same memory as bytes, which every backend sends: Gloo refuses bfloat16 in some versions."""
    return tensor.view(torch.uint8)
