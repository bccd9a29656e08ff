"""What a command line says of a run: a recipe, a file and flags over it."""

import yaml

from turbomim.pipeline.places.opening import check_local
from turbomim.pipeline.system.errors import UsageError, UserError, one_line
from turbomim.pipeline.system.remedies import explain
from turbomim.train.models.named_encoder import lay_over
from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.flags import take_settings, take_value


def read_yaml(path: str, base: Config) -> Config:
    """`base` with the values of a YAML file laid over it."""
    check_local("--config", path)
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except OSError as error:
        raise UserError(f"--config {path}: {explain(error, 'check the path')}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {one_line(error)}") from error
    return lay_over(base, values or {}, path)


def parse_config(argv: list[str]) -> tuple[Config, bool]:
    """RECIPE [--config FILE] [--dry-run] [--section.key VALUE …] to (settings, dry run).

    Of a setting the last of these that names it counts: 1. the default of `Config`, 2. the recipe, 3. the
    file, 4. the flags.  Raises UserError.
    """
    if "--help" in argv or "-h" in argv:
        # what trains and measures needs no flags' help: a bare machine has no tyro
        import tyro

        base = recipe(argv[0]) if argv[0] in RECIPES else Config()
        # prints every setting with its comment and value, and exits
        shown = tyro.conf.configure(tyro.conf.FlagConversionOff)(Config)
        tyro.cli(shown, args=["--help"], default=base, prog="turbomim pretrain RECIPE")
    dry_run = "--dry-run" in argv
    argv = [word for word in argv if word != "--dry-run"]
    file = take_value(argv, "--config")
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"pretrain needs a recipe first, one of: {', '.join(RECIPES)}")
    base = recipe(argv.pop(0))
    if file is not None:
        base = read_yaml(file, base)
    others, flags = take_settings(argv)
    if others:
        raise UsageError(
            f"{others[0]!r} is not a setting: write --section.key VALUE (turbomim pretrain --help lists them)"
        )
    return lay_over(base, flags, "flags"), dry_run
