"""`turbomim.pretrain`: a pre-training from a recipe, as the command of that name."""

from os import PathLike, fspath
from pathlib import Path
from typing import Any

from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.train.api.arguments import check_names
from turbomim.train.api.run import Run
from turbomim.train.machine.home import ensure_home
from turbomim.train.pretrain.pretrain import pretrain as run_pretraining
from turbomim.train.recipes.command_line import config_of


def pretrain(
    recipe: str,
    *,
    data: str | PathLike[str],
    name: str,
    # a path and a Console; a type checker would want every value of `**{"optim.epochs": 10}` to be one
    begins_from: Any = None,
    console: Any = None,
    **settings: Any,
) -> Run:
    """Pre-train a vision encoder, or go on with a run of the same name, as `turbomim pretrain` does.

    A call that was killed is resumed by the same call, exactly; one that is done returns at once.  Under
    torchrun each rank makes the same call.

    Example:
        run = turbomim.pretrain("demo", data="shards/train", name="mine", **{"optim.epochs": 10})
        run.show()

    Args:
        recipe: A name that `turbomim recipes` lists.
        data: Shards to train on, made by `turbomim.shard`: a folder or URL.
        name: The run's name; its folder is runs/NAME, or below the setting run.folder.
        begins_from: A run, or its folder, whose weights a new run begins with, as with `--from`.
        console: Where lines and the panel go, a rich.console.Console; standard output if None.
        **settings: Any setting of `turbomim pretrain --help`, as `**{"section.key": value}`.  One that many
            give is data.heldout, shards whose loss is measured on the way.

    Returns:
        The run: `metrics`, `report()`, `show()`.  On a machine that does not see its folder there is nothing
        to read of it.

    Raises:
        UserError: A setting does not exist or cannot be, the data cannot be read, the folder holds a run with
            other settings, the weights do not fit, or the machine cannot do it.
        KeyboardInterrupt: It was asked to stop (Ctrl-C, SIGTERM, SIGUSR2).  A checkpoint is saved: the same
            call goes on.
    """
    check_names(settings, pretrain)
    for setting, argument in (("data.path", "data"), ("run.name", "name")):
        if setting in settings:
            raise UsageError(
                f"{setting} is a setting and the argument {argument}: leave it out of the settings"
            )
    ensure_home()
    raise_limit()
    config = config_of(recipe, {"data.path": fspath(data), "run.name": name, **settings})
    run = None if begins_from is None else Path(begins_from)
    outcome = run_pretraining(config, console=console, begins_from=run)
    if outcome.status == "preempted":
        raise KeyboardInterrupt(f"stopped at step {outcome.step} of {outcome.steps}; the same call goes on")
    return Run.of_this_call(outcome.folder)
