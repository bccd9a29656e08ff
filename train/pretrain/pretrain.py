"""A pre-training put together: data opened, settings resolved, run folder taken; then the loop."""

from __future__ import annotations

import contextlib
from functools import partial

from rich.console import Console

from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.tars.split import Split
from turbomim.train.evaluate.online import OnlineEval, Splits, labelled_splits
from turbomim.train.export.programs import export_at_end
from turbomim.train.folder import rundir
from turbomim.train.folder.resume import prepare
from turbomim.train.folder.sinks import check_sinks
from turbomim.train.loop.beside import Beside, Draw
from turbomim.train.loop.data import describe, open_data
from turbomim.train.loop.resolved import resolve
from turbomim.train.loop.run import Outcome, Run
from turbomim.train.machine.compiler import check_compiler
from turbomim.train.machine.price import about_device
from turbomim.train.machine.tuned_loader import machine_name, read_tuned
from turbomim.train.machine.tuned_step import about_step, read_step, step_key
from turbomim.train.pictures.reconstruction import FixedPictures
from turbomim.train.pretrain.dry_run import dry_run_of
from turbomim.train.settings.config import Config
from turbomim.train.world.distributed import World, start


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
    with start(config.step.device, config.step.rank_timeout) as world:
        check_compiler(config.step, world.device.type)
        world.from_main(lambda: check_sinks(config.run))
        tuned_step = world.from_main(lambda: read_step(step_key(config, world)))
        data = config.data
        split = open_data(data.path, "--data.path", data, world)
        heldout = open_data(data.heldout, "--data.heldout", data, world) if data.heldout else None
        labelled = labelled_splits(config, split, heldout, world)
        tuned_loader = world.together(lambda: read_tuned(machine_name(world.device)))
        resolved = world.alike(
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
            describe(data, split, resolved.loader, tuned_loader, world),
            *about_step(resolved.config, resolved.tuned_step),
            *world.together(lambda: about_device(resolved.config, resolved.plan, world)),
        ]
        if dry_run:
            return dry_run_of(resolved, about, world, console)
        with contextlib.ExitStack() as held:
            splits = [split, *([heldout] if heldout else []), *(labelled or ())]
            on_gpu = resolved.loader.decodes_on(world.device.type)
            found, said = world.from_main(lambda: prepare(resolved.config, splits, held, on_gpu=on_gpu))
            beside = beside_steps(resolved.config, heldout or split, labelled, world)
            run = Run(resolved, split, heldout, world, console, beside=beside, profile=profile)
            return run.go(found, said, about)


def beside_steps(config: Config, drawn: Split, labelled: Splits | None, world: World) -> Beside:
    """What a pre-training does beside its steps.  drawn: the split of the pictures."""
    folder = rundir.run_folder(config)

    def draw(journal: Journal) -> Draw:
        return FixedPictures(config, drawn, folder, journal).draw

    return Beside(
        scorer=partial(OnlineEval, config, labelled, world),
        draw=draw,
        export=lambda model, step: export_at_end(model, config, step, folder),
    )
