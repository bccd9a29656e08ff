"""Recipes: functions that return a Config.  Hyper-parameters are the published ones, with their source.

Command of every recipe: `turbomim pretrain NAME --data.path SHARDS`, with `torchrun --nproc-per-node 8 -m
turbomim …` for 8 GPUs.  A result is quoted only where it was published for exactly this recipe.
"""

from collections.abc import Callable
from dataclasses import replace

from turbomim.pipeline.system.errors import unknown_name
from turbomim.train.recipes import cifar10, convmae, lsmae, mae, mff, pixmim, simmim
from turbomim.train.settings.config import Config

RECIPES: dict[str, Callable[[], Config]] = {
    "demo": pixmim.demo,
    **cifar10.RECIPES,
    **mae.RECIPES,
    **pixmim.RECIPES,
    **mff.RECIPES,
    **lsmae.RECIPES,
    **convmae.RECIPES,
    **simmim.RECIPES,
}


def recipe(name: str) -> Config:
    """The settings of a recipe.  Raises UserError with the nearest names for an unknown one."""
    if name not in RECIPES:
        raise unknown_name("unknown recipe", name, RECIPES)
    config = RECIPES[name]()
    return replace(config, run=replace(config.run, recipe=name))


def recipe_in_command(command: object) -> str:
    """The recipe that a run's command names, as its env.json has it; empty if it names none.

    Settings have it too, but for those of runs of earlier versions.
    """
    words = command[1:] if isinstance(command, list) else []
    named = (str(word).removeprefix("--recipe=") for word in words)
    return next((word for word in named if word in RECIPES), "")
