"""Ranks and devices: the only file that reads the launcher's environment variables."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from turbomim.pipeline.system.errors import UsageError, UserError, need, one_line
from turbomim.train.world.peers import GRACE, Peers, exit_after

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among its peers; a single process if nothing else is said."""

    rank: int = 0
    size: int = 1
    device: torch.device
    # CPU-side group for decisions, so that agreeing never waits for the GPU; None for a single process
    control: dist.ProcessGroup | None = None
    # processes that share this machine
    local_size: int = 1
    # watches over the other ranks; None for a single process
    peers: Peers | None = None

    @property
    def main(self) -> bool:
        """Whether this rank writes files and the terminal."""
        return self.rank == 0

    def any_rank_stops(self, *, stop: bool = False, error: UserError | None = None) -> bool:
        """Whether any rank is to stop; every rank gets the same answer.

        Every rank calls it, also one that met an error.  Then rank 0 raises the first such rank's UserError,
        and the others, so that it is said once, SystemExit.
        """
        if self.control is None:
            if error is not None:
                raise error
            return stop
        self._count_exchange()
        worst = torch.tensor(2 if error else int(stop))
        dist.all_reduce(worst, dist.ReduceOp.MAX, group=self.control)
        if worst == 2:
            errors: list[UserError | None] = [None] * self.size
            dist.all_gather_object(errors, error, group=self.control)
            rank, first = next((rank, each) for rank, each in enumerate(errors) if each is not None)
            self._end_all_ranks(type(first)(f"rank {rank}: {first}"))
        return bool(worst)

    def run_on_all(self, act: Callable[[], T]) -> T:
        """Run a call on every rank and return this rank's result, or end all ranks as `any_rank_stops` does.

        They end if any rank's call raises UserError.  Rank 0's call may take longer than `rank_timeout`.
        """
        try:
            result = act()
        except UserError as error:
            self._wait_for_all()
            self.any_rank_stops(error=error)
            raise
        self._wait_for_all()
        self.any_rank_stops()
        return result

    def run_replicated(self, act: Callable[[], T]) -> T:
        """Run a call that gives, or refuses, the same on every rank, without an exchange.

        Rank 0 says what it refuses.  Give it what is equal everywhere: a rank that refuses alone waits for
        the others, and they for it.
        """
        try:
            return act()
        except UserError as error:
            self._end_all_ranks(error)

    def all_gather(self, values: Sequence[float]) -> list[list[float]]:
        """The values of every rank, in order of rank, on every rank."""
        if self.control is None:
            return [list(values)]
        self._count_exchange()
        mine = torch.tensor(values, dtype=torch.float64)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine, group=self.control)
        return [each.tolist() for each in every]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over ranks, on the tensor's device."""
        if self.size > 1:
            self._count_exchange()
            dist.all_reduce(value, dist.ReduceOp.SUM)
            value = value / self.size
        return value

    def broadcast_from_rank0(self, choose: Callable[[], T]) -> T:
        """Run a call on rank 0 alone; return its result on every rank, or end all ranks by its UserError.

        The result must be plain: it travels between the ranks.  The call may take longer than `rank_timeout`.
        """
        if self.control is None:
            return choose()
        answer: list[T | UserError | None] = [None]
        if self.main:
            try:
                answer = [choose()]
            except UserError as error:
                answer = [error]
        self._wait_for_all()
        dist.broadcast_object_list(answer, src=0, group=self.control)
        (result,) = answer
        if isinstance(result, UserError):
            self._end_all_ranks(result)
        return cast(T, result)

    def barrier(self) -> None:
        """Return when every rank has come here; rank 0 may take longer than `rank_timeout`."""
        if self.control is not None:
            self._wait_for_all()
            # whoever keeps the store must not leave while others still ask it
            dist.barrier(group=self.control)

    def naming_lost_ranks(self) -> contextlib.AbstractContextManager[None]:
        """Within it an exchange that fails ends with the name of the rank that is missing, see `Peers`."""
        return contextlib.nullcontext() if self.peers is None else self.peers.naming_lost_ranks()

    def _count_exchange(self) -> None:
        if self.peers is not None:
            self.peers.count_exchange()

    def _wait_for_all(self) -> None:
        if self.peers is not None:
            self.peers.wait_for_all()

    def _end_all_ranks(self, error: UserError) -> NoReturn:
        """Raise an error that every rank knows: rank 0 says it."""
        if self.main:
            raise error
        # torchrun ends all ranks when one is gone: stay until rank 0 has left, which breaks this off
        with contextlib.suppress(RuntimeError):
            dist.barrier(group=self.control)
        raise SystemExit(2 if isinstance(error, UsageError) else 1)


def this_rank() -> tuple[int, int, int]:
    """Rank, ranks, and ranks of this machine: those of torch.distributed, else of torchrun, else 0, 1, 1.

    For a library call within another program, which has joined the ranks, or will, in its own way.  Of the
    machine, only torchrun tells: else as many ranks as it has GPUs, or all where it has none.
    """
    rank, size = 0, 1
    if dist.is_available() and dist.is_initialized():
        rank, size = dist.get_rank(), dist.get_world_size()
    elif {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    here = min(size, torch.cuda.device_count() or size)
    return rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", here))


def choose_device(wanted: str | torch.device, local_rank: int | None = None) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:NUMBER`.

    local_rank: the GPU of `auto` and `cuda`; None: torch's current one, without a number, as asking for it
    would open it.  Raises UsageError for another word, UserError where a GPU is asked for and missing.
    """
    auto, gpus = str(wanted) == "auto", torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        found = torch.device(("cuda" if gpus else "cpu") if auto else wanted)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    need(found.type in ("cpu", "cuda"), "device", repr(str(wanted)), "auto, cpu, cuda or cuda:NUMBER")
    if found.type == "cpu":
        return torch.device("cpu")
    if (found.index or 0) >= gpus:
        raise UserError(
            f"device {str(wanted)!r} was asked for, but torch finds {gpus or 'no'} GPU: check the driver, or "
            "use auto or cpu"
        )
    numbered = ":" in str(found)
    if numbered or local_rank is None:
        return found
    if local_rank >= gpus:
        raise UserError(f"local rank {local_rank} has no GPU: {gpus} visible; lower --nproc-per-node")
    return torch.device("cuda", local_rank)


@contextmanager
def join_ranks(device: str, rank_timeout: float = 600.0) -> Iterator[World]:
    """Join the process group that torchrun describes, or stand alone; leave it, together, at the end.

    rank_timeout: seconds that a rank waits for the others, unless rank 0 is at work for all.  Raises
    UserError that names the missing ones.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(device=chosen)
        return
    timeout = timedelta(seconds=rank_timeout)
    too_late = f"rank {rank}: the {size} ranks did not come together within {rank_timeout:g} s"
    remedy = "start them all, or raise --step.rank_timeout"
    try:
        # the timeout is none for a store whose process is stopped
        with exit_after(rank_timeout + GRACE, f"{too_late}: {remedy}"):
            store, _, _ = next(rendezvous("env://", timeout=timeout))
            peers = Peers(store, rank, size, rank_timeout)
    except dist.DistError as error:
        raise UserError(f"{too_late} ({one_line(error, 160)}): {remedy}") from error
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    with peers, peers.naming_lost_ranks():
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        control = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(control, dist.ProcessGroup), "this rank is in the group of all ranks"
        world = World(
            rank=rank,
            size=size,
            device=chosen,
            control=control,
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            peers=peers,
        )
        yield world
        # one that leaves early would look lost to the others
        world.barrier()
    # after an error it may wait for ranks that are gone; the process ends anyway
    dist.destroy_process_group()
