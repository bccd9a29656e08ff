"""Work shared over ranks gives what one rank gives, for any number of matrices and rows.

Planted, each seen to fail: a share that is not filled up, rows sent back by matrices and not by ranks, rows
of the last ranks that are not cut off.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from tests.runs import as_rank, finish, launch_ranks
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from turbomim.train.models.sharding import placed_rows
from turbomim.train.optim.shared import on_split, on_whole
from turbomim.train.world.distributed import join_ranks

RANKS = 3
# number, rows, columns: fewer matrices than ranks, rows that no rank or not every rank has alike
SIZES = [(1, 6, 4), (2, 7, 5), (4, 4, 3), (7, 2, 5)]


def mixed(matrices_NAB: Tensor) -> Tensor:
    """Every number depends on its whole matrix, its row and its column."""
    return matrices_NAB.cumsum(1).flip(1) - matrices_NAB.mean((1, 2), keepdim=True)


def work(folder: Path, rank: int, world: int, port: int) -> None:
    as_rank(rank, world, port)
    torch.set_num_threads(1)
    with join_ranks("cpu"):
        mesh = init_device_mesh("cpu", (world,))
        for size, dtype in itertools.product(SIZES, (torch.float32, torch.bfloat16)):
            matrices = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype)
            split = [distribute_tensor(matrix, mesh, [Shard(0)]) for matrix in matrices]
            rows = on_split(torch.stack([each.to_local() for each in split]), mixed, split[0])
            for own, matrix, other in zip(rows, mixed(matrices), split, strict=True):
                torch.testing.assert_close(placed_rows(own, other).full_tensor(), matrix)
            torch.testing.assert_close(on_whole(matrices, mixed, rank, world), mixed(matrices))
        (folder / f"{rank}").write_text("right")


@pytest.mark.timeout(120)
def test_shares_and_rows(tmp_path: Path) -> None:
    processes = launch_ranks(work, RANKS, tmp_path)
    assert [finish(process) for process in processes] == [0] * RANKS
    assert len(list(tmp_path.iterdir())) == RANKS
