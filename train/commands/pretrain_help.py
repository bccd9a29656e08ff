"""`turbomim pretrain --help`: what is no setting first, then every setting with its comment and value.

What trains and measures does not import it: a bare machine has no tyro.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagConversionOff, arg

from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.flags import show_help


@dataclass(frozen=True, kw_only=True)
class Pretrain(Config):
    """Pre-train an encoder on shards, or go on with the run of that name: the same command resumes.

    turbomim pretrain RECIPE --data.path SHARDS [--section.field VALUE …].  Of a setting the last of these
    that names it counts: its default, the recipe, the --config file, the flag.  See docs/configuration.md.
    """

    config: Annotated[Path | None, arg(metavar="FILE.yaml", help_behavior_hint="")] = None
    """Settings over the recipe's; with a line `recipe: NAME`, or a run's config.yaml, they need no RECIPE."""
    from_: Annotated[Path | None, arg(name="from", metavar="RUN", help_behavior_hint="")] = None
    """Begin a new --run.name with the weights of this run; without RECIPE and --config its settings, too."""
    preset: Annotated[str | None, arg(metavar="GPU", help_behavior_hint="")] = None
    """Take the micro-batch that is expected to fit: a100-40g, a100-80g, h100 or h200."""
    dry_run: Annotated[bool, arg(metavar="", help_behavior_hint="")] = False
    """Check settings, data, machine and run folder, say what the run would be, and write nothing."""
    world_size: Annotated[int | None, arg(metavar="GPUS", help_behavior_hint="")] = None
    """With --dry-run: what the run takes on so many GPUs, in time, memory and disk."""
    img_per_s: Annotated[float | None, arg(metavar="RATE", help_behavior_hint="")] = None
    """With --world-size: images a second of one GPU; without it a share of the datasheet's rate."""
    profile: Annotated[str | None, arg(metavar="steps=10:15", help_behavior_hint="")] = None
    """Profile these steps of this process, and train on."""


def print_help(argv: list[str]) -> None:
    """Print the help, with the values of the recipe that argv begins with, the defaults without one."""
    base = recipe(argv[0]) if argv and argv[0] in RECIPES else Config()
    default = Pretrain(**{field.name: getattr(base, field.name) for field in fields(Config)})
    show_help(Pretrain, "turbomim pretrain [RECIPE]", FlagConversionOff, default=default)
