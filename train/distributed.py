"""Ranks and devices: the only file that reads the launcher's environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from turbomim.pipeline.errors import UserError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device
    # CPU-side group for decisions, so that agreeing never waits for the GPU; None for a single process
    control: dist.ProcessGroup | None

    @property
    def main(self) -> bool:
        """Whether this rank writes files and the terminal."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; every rank gets the same answer."""
        if self.control is None:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.control)
        return bool(value)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over ranks, on the tensor's device."""
        if self.size > 1:
            dist.all_reduce(value, dist.ReduceOp.SUM)
            value = value / self.size
        return value

    def from_main(self, choose: Callable[[], T]) -> T:
        """What rank 0's call returns, on every rank; what it refuses is refused everywhere.

        The result must be plain: it travels between the ranks.
        """
        if self.control is None:
            return choose()
        answer: list[T | UserError | None] = [None]
        if self.main:
            try:
                answer = [choose()]
            except UserError as error:
                answer = [error]
        dist.broadcast_object_list(answer, src=0, group=self.control)
        (result,) = answer
        if isinstance(result, UserError):
            raise result
        return cast(T, result)

    def wait(self) -> None:
        """Return when every rank has come here."""
        if self.control is not None:
            dist.barrier(group=self.control)


def cores() -> int:
    """CPU cores this process may use, shared fairly among the processes of this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`.  Raises UserError where cuda is asked for and missing."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise UserError("step.device = cuda: no CUDA device is visible; use step.device auto or cpu")
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU: {torch.cuda.device_count()} visible; lower --nproc-per-node"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def start(device: str) -> Iterator[World]:
    """Join the process group that torchrun describes, or stand alone; leave it at the end."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(rank=0, size=1, device=chosen, control=None)
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
        assert isinstance(control, dist.ProcessGroup), "this rank is in the group of all ranks"
        yield World(rank=rank, size=size, device=chosen, control=control)
    finally:
        dist.destroy_process_group()
