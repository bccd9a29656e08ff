"""A pre-training put together: data opened, settings resolved, run folder taken; then the loop."""

from __future__ import annotations

import contextlib

from rich.console import Console

from turbomim.train.evaluate.online import labelled_splits
from turbomim.train.folder.sinks import check_sinks
from turbomim.train.folder.take import take_folder
from turbomim.train.loop.data import about_data, open_data
from turbomim.train.loop.resolved import resolve
from turbomim.train.loop.run import Outcome
from turbomim.train.machine.compiler import check_compiler
from turbomim.train.machine.price import about_device
from turbomim.train.machine.tuned_loader import machine_name, read_tuned
from turbomim.train.machine.tuned_step import about_step, read_step, step_key
from turbomim.train.pretrain.dry_run import dry_run_of
from turbomim.train.pretrain.run import PretrainRun
from turbomim.train.settings.config import Config
from turbomim.train.world.distributed import join_ranks


def pretrain(
    config: Config,
    *,
    preset: str | None = None,
    dry_run: bool = False,
    profile: range = range(0),
    console: Console | None = None,
) -> Outcome:
    """Run or resume a pre-training in runs/NAME, with a profile of these steps of the process.

    preset: a GPU whose micro-batch is taken.  Raises UserError for anything a user or a file caused.
    """
    console = console or Console()
    with join_ranks(config.step.device, config.step.rank_timeout) as world:
        check_compiler(config.step, world.device.type)
        world.broadcast_from_rank0(lambda: check_sinks(config.run))
        # every rank trains with what rank 0 was given
        config, preset, tuned_step = world.broadcast_from_rank0(
            lambda: (config, preset, read_step(step_key(config, world)))
        )
        data = config.data
        split = open_data(data.path, "--data.path", data, world)
        heldout = open_data(data.heldout, "--data.heldout", data, world) if data.heldout else None
        labelled = labelled_splits(config, split, heldout, world)
        tuned_loader = world.run_on_all(lambda: read_tuned(machine_name(world.device)))
        resolved = world.run_replicated(
            lambda: resolve(
                config,
                split.manifest.samples,
                ranks=world.size,
                local_ranks=world.local_size,
                preset=preset,
                tuned_step=tuned_step,
                tuned_loader=tuned_loader,
            )
        )
        about = [
            about_data(data, split, resolved.loader, tuned_loader, world),
            *about_step(resolved.config, resolved.tuned_step),
            *world.run_on_all(lambda: about_device(resolved.config, resolved.plan, world)),
        ]
        if dry_run:
            return dry_run_of(resolved, about, world, console)
        with contextlib.ExitStack() as held:
            splits = [split, *([heldout] if heldout else []), *(labelled or ())]
            on_gpu = resolved.loader.decodes_on(world.device.type)
            found, said = world.broadcast_from_rank0(
                lambda: take_folder(resolved.config, splits, held, on_gpu=on_gpu)
            )
            run = PretrainRun(resolved, split, heldout, labelled, world, console, profile)
            return run.go(found, said, about)
