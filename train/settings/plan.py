"""How a global batch is cut, and how long a run is: pure numbers."""

from dataclasses import dataclass

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.words import counted
from turbomim.train.settings.config import Config
from turbomim.train.settings.schedule import run_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The cut of a global batch over ranks and micro-batches, and the number of steps."""

    samples: int
    steps: int
    global_batch: int
    micro_batch: int
    micro_steps: int
    world: int

    @property
    def local_batch(self) -> int:
        """Samples of one step on one rank."""
        return self.micro_batch * self.micro_steps

    def equation(self, config: Config) -> str:
        """The batch and the learning rate, written out."""
        optim = config.optim
        return (
            f"effective batch {self.global_batch} = {self.micro_batch} x {self.micro_steps} x {self.world} "
            f"(micro-batch x accumulation x ranks); lr {optim.lr:g} = {optim.base_lr:g} x "
            f"{self.global_batch}/{optim.lr_batch}; "
            f"{counted(self.steps, 'step')} = {optim.epochs:g} epoch{'s' * (optim.epochs != 1)} of "
            f"{counted(self.samples, 'sample')}"
        )


def make_plan(config: Config, samples: int, world: int) -> Plan:
    """Cut the global batch over ranks and micro-batches.  Raises UserError where it does not divide."""
    total, micro = config.optim.global_batch, config.optim.micro_batch
    if total % world:
        raise UserError(
            f"optim.global_batch = {total} does not divide over {world} ranks: use a multiple of {world}"
        )
    groups = config.data.groups
    if total % groups:
        raise UserError(
            f"optim.global_batch = {total} does not divide over data.groups = {groups}: "
            f"use a multiple of {groups}"
        )
    local = total // world
    micro = micro or local
    if local % micro:
        near = largest_divisor(local, micro)
        raise UserError(
            f"optim.micro_batch = {micro} does not divide the {local} samples of a rank "
            f"(global batch {total} / {world} ranks): use a divisor, {near} for example"
        )
    check_graphs(config, micro_steps=local // micro)
    steps = run_steps(config.optim, samples)
    return Plan(
        samples=samples,
        steps=steps,
        global_batch=total,
        micro_batch=micro,
        micro_steps=local // micro,
        world=world,
    )


def check_graphs(config: Config, *, micro_steps: int) -> None:
    """Raise UserError where CUDA graphs cannot be right.

    A graph's gradients live in its own memory, which the next micro-step's replay overwrites: torch refuses
    to add to them, or adds to what was overwritten (pytorch #169545, #96693).  FSDP2 gathers weights at
    addresses that a graph does not know.
    """
    if config.step.compile_mode != "reduce-overhead":
        return
    if micro_steps > 1:
        raise UserError(
            f"step.compile_mode = reduce-overhead: CUDA graphs take one micro-step, not {micro_steps}: "
            "give --step.compile_mode default, or an --optim.micro_batch of all samples of a rank"
        )
    if config.step.shard:
        raise UserError(
            "step.compile_mode = reduce-overhead: CUDA graphs need weights that stay in place, and "
            "step.shard gathers them anew: give --step.compile_mode default"
        )


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number above 0 that is at most `most`; 1 for 0."""
    return next((n for n in range(min(number, most), 0, -1) if number % n == 0), 1)
