"""Out of memory: how much there was, what took it, and three flags to try."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from turbomim.pipeline.decoding.failures import out_of_memory
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.pipeline.system.words import counted
from turbomim.train.loop.session import Session
from turbomim.train.machine.memory import GIB, container_limit, peak_bytes
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import Plan, largest_divisor
from turbomim.train.settings.precision import uses_bfloat16
from turbomim.train.world.distributed import World


@contextmanager
def explaining_out_of_memory(session: Session[Any]) -> Iterator[None]:
    """Within it an error that memory ran out becomes a UserError that says what to try.

    A loader's own error of that kind, which knows no settings of a run, becomes one too.
    """
    try:
        yield
    except (RuntimeError, MemoryError, UserError) as error:
        if not out_of_memory(error):
            raise
        config, plan, world = session.config, session.plan, session.world
        raise UserError(
            f"rank {world.rank} ran out of memory with a micro-batch of "
            f"{counted(plan.micro_batch, 'image')} of {config.data.size} pixels; "
            f"{memory_in_words(world.device)}; it says: {one_line(error, 160)}; "
            f"try {', '.join(flags_to_try(config, plan, session.loader_speed, world))}"
        ) from error


def memory_in_words(device: torch.device) -> str:
    """Memory there is and memory taken, of the device or else of this process on the host."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        taken = torch.cuda.memory_allocated(device)
        return (
            f"{device} has {total / GIB:.1f} GiB, {free / GIB:.1f} free, {taken / GIB:.1f} taken by tensors"
        )
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = {"machine": total}
    if (container := container_limit()) is not None:
        limits["control group"] = container
    if (soft := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        limits["ulimit -v"] = soft
    which = min(limits, key=lambda name: limits[name])
    limit = f"{limits[which] / GIB:.1f} GiB ({which})"
    return f"the host's limit is {limit}, this process took up to {peak_bytes(device) / GIB:.1f} GiB"


def flags_to_try(config: Config, plan: Plan, speed: LoaderSpeed, world: World) -> list[str]:
    """Three flags, the best first, that need less memory and are not set yet."""
    smaller = largest_divisor(plan.local_batch, plan.micro_batch - 1)
    size, patch = config.data.size, config.model.patch
    on_gpu = world.device.type == "cuda"
    bfloat16 = uses_bfloat16(config.step, world.device)
    wanted = {
        f"--optim.micro_batch {smaller}": plan.micro_batch > 1,
        "--step.recompute true": not config.step.recompute,
        "--step.shard true": world.size > 1 and not config.step.shard,
        "--data.decode cpu": speed.decodes_on(world.device.type),
        "--step.precision bfloat16": on_gpu and not bfloat16,
        f"--data.prefetch {max(1, speed.prefetch // 2)}": speed.prefetch > 1,
        f"--data.threads {max(1, speed.threads // 2)}": speed.threads > 1,
        "--run.save_in_background false": config.run.save_in_background,
        # the last resort: another run
        f"--data.size {max(2 * patch, size // 2 // patch * patch)} in a new run": True,
        f"--model.decoder_depth {max(1, config.model.decoder_depth // 2)} in a new run": True,
    }
    return [flag for flag, useful in wanted.items() if useful][:3]
