"""A pre-training put together: session opened, run folder taken, the masked model made; then the loop."""

import dataclasses
from pathlib import Path

from rich.console import Console

from turbomim.train.evaluate.online import labelled_splits
from turbomim.train.folder.begun import begun_in_words, read_begun
from turbomim.train.loop.run import Outcome, Run
from turbomim.train.loop.session import open_session, take_folder
from turbomim.train.machine.price import about_device
from turbomim.train.machine.tuned_step import TUNED_STEP, step_key
from turbomim.train.pretrain.begin import begin, check_beginning
from turbomim.train.pretrain.dry_run import print_dry_run
from turbomim.train.pretrain.task import Pretraining
from turbomim.train.recipes.idle import idle_settings
from turbomim.train.settings.config import Config
from turbomim.train.settings.sizes import in_words


def pretrain(
    config: Config,
    *,
    preset: str | None = None,
    dry_run: bool = False,
    profile: range = range(0),
    console: Console | None = None,
    begins_from: Path | None = None,
) -> Outcome:
    """Run or resume a pre-training in runs/NAME, with a profile of these steps of the process.

    preset: a GPU whose micro-batch is taken; begins_from: a run whose weights a new one begins with.  Raises
    UserError for anything a user or a file caused.
    """
    with open_session(
        config,
        console,
        preset=preset,
        read_tuned_step=lambda settings, world: TUNED_STEP.read(step_key(settings, world)),
    ) as session:
        world = session.world
        labelled = labelled_splits(session.config, session.split, session.heldout, world)
        # rank 0 alone writes it, and tracing a step takes a second
        on_device = world.broadcast_from_rank0(lambda: about_device(session.config, session.plan, world))
        idle = idle_settings(session.config, session.plan.steps, world.device.type, world.size)
        stages = session.config.data.stages(session.plan.steps)
        sizes = [in_words(stages)] if session.config.data.sizes else []
        session = dataclasses.replace(session, about=[*session.about, *sizes, *on_device, *idle])
        if dry_run:
            return print_dry_run(session, *(labelled or ()), begins_from=begins_from)
        if begins_from is not None:
            # before there is a folder
            world.broadcast_from_rank0(lambda: check_beginning(begins_from, session.config))
        with take_folder(session, *(labelled or ()), begins_from=begins_from) as folder:
            if begins_from is not None and folder.checkpoint is None:
                first = world.broadcast_from_rank0(lambda: begin(session, folder.path, begins_from))
                notes = [*folder.notes, f"began with {begun_in_words(read_begun(folder.path))}"]
                folder = dataclasses.replace(folder, checkpoint=first, notes=notes)
            return Run(session, folder, Pretraining(session, folder, labelled), profile).go()
