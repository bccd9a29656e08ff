"""`--dry-run`: what a run is and takes, without a step."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import rundir
from turbomim.train.folder.checkpoint import step_name
from turbomim.train.loop.data import open_data
from turbomim.train.loop.resolved import resolve
from turbomim.train.loop.run import Outcome
from turbomim.train.loop.session import Session, check_folder
from turbomim.train.loop.shares import about_groups, check_groups
from turbomim.train.machine.predicted_memory import count_parameters
from turbomim.train.machine.price import IMAGENET, flops_in_words, price_table
from turbomim.train.models.methods import mean_flops
from turbomim.train.pretrain.begin import check_beginning
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.plan import make_plan
from turbomim.train.settings.schedule import with_steps
from turbomim.train.terminal.streams import print_plain
from turbomim.train.world.distributed import World, choose_device


def print_dry_run(session: Session[Config], *others: Split, begins_from: Path | None) -> Outcome:
    """Print what the run is, on the main rank.

    others: splits that it reads besides its own two; begins_from: a run whose weights it begins with.  Raises
    UserError for what the run itself would refuse, but for a disk that fills, without writing anything.
    """
    config, plan = session.config, session.plan
    begins = session.world.broadcast_from_rank0(lambda: _begins(session, others, begins_from))
    parameters = count_parameters(config)
    count = parameters.trained + parameters.fixed
    if session.world.main:
        lines = "\n".join(session.about)
        text = (
            f"{yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)}{plan.equation(config)}\n"
            f"{lines}\n{count:,} parameters, {flops_in_words(mean_flops(config, plan.steps))}, "
            f"device {session.world.device}\n{begins}; dry run: nothing was trained"
        )
        print_plain(session.console, text)
    return Outcome(folder=rundir.run_folder(config), status="dry-run", step=0, steps=plan.steps)


def _begins(session: Session[Config], others: Sequence[Split], begins_from: Path | None) -> str:
    """What the run would begin with, for people.  Raises UserError."""
    config = session.config
    if begins_from is not None:
        check_beginning(begins_from, config)
    found = check_folder(session, *others, begins_from=begins_from)
    folder = rundir.run_folder(config)
    steps = session.plan.steps
    if found.partition(" ")[0] == step_name(steps):
        return f"{folder} is done, with {found}"
    if found:
        return f"{folder} would go on from {found}, of {steps:,} steps"
    return f"{folder} would be a new run" + (f" with the weights of {begins_from}" if begins_from else "")


def price(config: Config, *, ranks: int, img_per_s: float | None, preset: str | None) -> None:
    """Print a table of what the run takes on `ranks` GPUs; img_per_s is that of one of them.

    Raises UserError for a batch that does not divide, or data that cannot be read.
    """
    groups = list[str]()
    if config.data.path:
        here = World(device=choose_device("cpu", 0))
        split = open_data(config.data.path, "--data.path", config.data, here)
        check_groups(config.data.groups, split, "--data.path")
        groups = about_groups(config.data.groups, split, ranks)
        samples, source = split.manifest.samples, config.data.path
    else:
        samples, source = IMAGENET, "ImageNet-1k; --data.path counts yours"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    resolved, _ = resolve(with_steps(config, samples), ranks=ranks, preset=preset)
    plan = make_plan(resolved, samples, ranks)
    for name, value in price_table(resolved, plan, source, img_per_s=img_per_s, preset=preset):
        table.add_row(name, value)
    for number, line in enumerate(groups):
        table.add_row("" if number else "groups", line)
    Console(highlight=False, markup=False).print(table)
