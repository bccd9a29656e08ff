"""What a command line, or a program, says of a run: a recipe, a file and settings over it."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, Final

import yaml

from turbomim.pipeline.places.opening import check_local
from turbomim.pipeline.system.errors import UsageError, UserError, one_line, unknown_name
from turbomim.pipeline.system.remedies import explain
from turbomim.train.models.named_encoder import lay_over
from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import by_section, unknown_setting
from turbomim.train.settings.flags import take_settings, take_value
from turbomim.train.settings.schedule import PARTS, has_shares

BOTH: Final = "both say how long the run is: give one of them"


class EachKeyOnce(yaml.SafeLoader):
    """YAML whose mappings name a key once; of two the first would be lost without a word."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """The mapping that comes next.  Raises UserError."""
        node = super().compose_mapping_node(anchor)
        lines = dict[str, int]()
        for key, _ in node.value:
            name, mark = str(key.value), key.start_mark
            if name in lines:
                twice = f"in line {lines[name]} and again in line {mark.line + 1}"
                raise UserError(f"--config {mark.name}: {name} is {twice}: give it once")
            lines[name] = mark.line + 1
        return node


def read_yaml(path: str) -> object:
    """What a YAML file holds.  Raises UserError for one that cannot be read."""
    check_local("--config", path)
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.load(file, EachKeyOnce) or {}
    except OSError as error:
        raise UserError(f"--config {path}: {explain(error, 'check the path')}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {one_line(error)}") from error


def config_of(
    name: str,
    settings: Mapping[str, object],
    file: str | PathLike[str] | None = None,
    where: str = "settings",
) -> Config:
    """The settings of a recipe, with those of a YAML file over it, and `settings` over both.

    name: the recipe's, empty where the file names it.  settings: by section.key, numbers, truth values, text
    and paths, or their text as a flag has it; None leaves a setting as it is.  where: who gave them, for
    errors.  `config_of("demo", {"optim.epochs": 2, "step.compile": False})` is what
    `demo --optim.epochs 2 --step.compile false` is.  Raises UsageError: no recipe, an unknown one, an unknown
    setting, a value that cannot be; UserError: a file that cannot be read.
    """
    path = None if file is None else fspath(file)
    values = {} if path is None else read_yaml(path)
    base = _base(name, values, path)
    lengths = [name for name in ("optim.epochs", "optim.steps") if settings.get(name) not in (None, 0, "0")]
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key != "recipe"}
        optim, run = values.get("optim"), values.get("run")
        # a run's config.yaml has all settings, and those epochs that its steps are
        of_run = isinstance(run, dict) and "recipe" in run
        if isinstance(optim, dict):
            if optim.get("epochs") and optim.get("steps") and not of_run:
                raise UsageError(f"{path}: optim.epochs and optim.steps {BOTH}")
            if lengths and (not optim.keys() & set(PARTS) or (of_run and has_shares(optim, base.optim))):
                # the parts keep their share of the recipe's epochs, not of what the file made of them
                fixed = ("epochs", *PARTS)
                values["optim"] = {key: value for key, value in optim.items() if key not in fixed}
    if path is not None:
        base = lay_over(base, values, path)
    if len(lengths) == 2:
        raise UsageError(f"optim.epochs and optim.steps {BOTH}")
    if "run.recipe" in settings:
        raise UsageError("run.recipe is no setting to be given: name the RECIPE itself")
    return lay_over(base, by_section(settings, where), where)


def _base(name: str, values: object, path: str | None) -> Config:
    """The settings that a file's are laid over: its recipe's, or the defaults under all settings of a run.

    A file has `recipe: NAME` at its top, and a run's config.yaml has it in the section run, empty where the
    run has none.  name: of the command, empty if it names none.
    """
    held = values if isinstance(values, dict) else {}
    section = held.get("run")
    run = section if isinstance(section, dict) else {}
    named = [str(word) for word in (held.get("recipe"), run.get("recipe")) if word is not None]
    names = list(dict.fromkeys(word for word in (name, *named) if word))
    if len(names) > 1:
        raise UsageError(f"{path} is for the recipe {names[1]}, not {names[0]}: give the one or the other")
    if not name and not named:
        instead = "--config FILE or --from RUN" if path is None else f"{path} a line `recipe: NAME`"
        raise UsageError(
            f"pretrain needs a recipe first, as demo or pixmim-vit-b16-300e, or {instead}; "
            "turbomim recipes lists all"
        )
    if names and names[0] != name and names[0] not in RECIPES:
        raise unknown_name(f"{path}: unknown recipe", names[0], RECIPES)
    return recipe(names[0]) if names else Config()


def parse_config(argv: list[str]) -> tuple[Config, bool]:
    """[RECIPE] [--config FILE] [--dry-run] [--section.key VALUE …] to (settings, dry run).

    Of a setting the last of these that names it counts: 1. the default of `Config`, 2. the recipe, 3. the
    file, 4. the flags.  Raises UserError.
    """
    dry_run = "--dry-run" in argv
    argv = [word for word in argv if word != "--dry-run"]
    file = take_value(argv, "--config")
    name = argv.pop(0) if argv and not argv[0].startswith("-") else ""
    others, flags = take_settings(argv)
    if others and others[0].startswith("--"):
        raise unknown_setting("unknown flag", others[0], "--")
    if others:
        raise UsageError(
            f"{others[0]!r} is not a setting: write --section.key VALUE (turbomim pretrain --help lists them)"
        )
    return config_of(name, flags, file, "flags"), dry_run
