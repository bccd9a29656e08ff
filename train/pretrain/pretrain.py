"""A pre-training put together: settings resolved, data opened, run folder taken; then the loop."""

from __future__ import annotations

import contextlib

from rich.console import Console

from turbomim.train.evaluate.online import labelled_splits
from turbomim.train.folder import rundir
from turbomim.train.folder.resume import prepare
from turbomim.train.folder.sinks import check_sinks
from turbomim.train.loop.data import describe, open_data
from turbomim.train.loop.run import Outcome, Run
from turbomim.train.machine.compiler import check_compiler
from turbomim.train.machine.price import about_device
from turbomim.train.machine.tuned_loader import machine_name, read_tuned, resolve
from turbomim.train.machine.tuned_step import tuned_config
from turbomim.train.pretrain.dry_run import dry_run_of
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import make_plan
from turbomim.train.world.distributed import start


def pretrain(
    config: Config, *, dry_run: bool = False, profile: range = range(0), console: Console | None = None
) -> Outcome:
    """Run or resume a pre-training in runs/NAME, with a profile of these steps of the process.

    Raises UserError for anything a user or a file caused.
    """
    console = console or Console()
    with start(config.step.device, config.step.rank_timeout) as world:
        check_compiler(config.step, world.device.type)
        world.from_main(lambda: check_sinks(config.run))
        config, about_step = world.from_main(lambda: tuned_config(config, world))
        data = config.data
        split = open_data(data.path, "--data.path", data, world)
        heldout = open_data(data.heldout, "--data.heldout", data, world) if data.heldout else None
        labelled = labelled_splits(config, split, heldout, world)
        plan = world.from_main(lambda: make_plan(config, split.manifest.samples, world.size))
        tuned = world.together(lambda: read_tuned(machine_name(world.device)))
        settings = resolve(data, tuned, world.local_size)
        about_step += world.together(lambda: about_device(config, plan, world))
        about_data = "\n".join([describe(data, split, settings, tuned, world), *about_step])
        if dry_run:
            return dry_run_of(config, plan, about_data, world, console)
        folder = rundir.run_folder(config)
        with contextlib.ExitStack() as held:
            splits = [split, *([heldout] if heldout else []), *(labelled or ())]
            on_gpu = settings.decode == "mixed" and world.device.type == "cuda"
            found, said = world.from_main(lambda: prepare(folder, config, splits, held, on_gpu=on_gpu))
            run = Run(config, plan, split, heldout, labelled, settings, world, console, profile)
            return run.go(found, said, about_data)
