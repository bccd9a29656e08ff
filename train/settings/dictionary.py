"""Settings to and from plain dictionaries, which YAML files and checkpoints hold, and how two differ."""

import math
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from os import PathLike, fspath
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar

from turbomim.pipeline.system.errors import UsageError, need, unknown_name
from turbomim.train.settings.config import AnyConfig, Config
from turbomim.train.settings.schedule import Kept

# settings by section and key, of any type where nothing has checked them yet
Values = dict[str, dict[str, Any]]
Made = TypeVar("Made")

# settings that a run may have anew when it goes on: they decide no number
FREE = frozenset({
    "data.path", "data.heldout", "data.cache", "data.cache_gb",
    "data.threads", "data.readers", "data.prefetch", "data.decode",
    "data.hw_decoder_load", "data.max_bad_share", "data.max_bad_row", "model.encoder",
    "step.device", "step.compile", "step.compile_mode", "step.precision", "step.recompute", "step.shard",
    "step.rank_timeout",
    "run.name", "run.recipe", "run.folder", "run.log_every", "run.save_every", "run.keep",
    "run.eval_every", "run.save_in_background", "run.picture_every", "run.tensorboard", "run.wandb",
    "run.mlflow", "run.trackio",
    "run.lock", "run.mirror",
    "eval.every_epochs", "eval.train", "eval.test", "eval.samples", "eval.probe",
})  # fmt: skip


def to_dict(config: Config) -> Values:
    """Plain nested dictionary: what config.yaml and checkpoints hold."""
    return asdict(config)


def from_dict(values: object, base: AnyConfig, where: str) -> AnyConfig:
    """`base` with the values of a nested dictionary laid over it.

    Raises UsageError for an unknown section or key, or a value of another type; `where` names the file.
    """
    if not isinstance(values, dict):
        raise UsageError(
            f"{where}: must be sections of key: value ({', '.join(f.name for f in fields(base))})"
        )
    sections = {f.name: getattr(base, f.name) for f in fields(base)}
    for name, section in values.items():
        if name not in sections:
            raise unknown_name(f"{where}: unknown section", str(name), sections)
        if not isinstance(section, dict):
            raise UsageError(f"{where}: section {name} must hold key: value lines, not {section!r}")
        types = typing.get_type_hints(type(sections[name]))
        given = {}
        for key, value in section.items():
            if key not in types:
                known = [f"{name}.{k}" for k in types]
                elsewhere = [f"{s}.{key}" for s, held in sections.items() if key in asdict(held)]
                raise unknown_name(f"{where}: unknown key", f"{name}.{key}", known, elsewhere)
            given[key] = typed(f"{where}: {name}.{key}", value, types[key])
        sections[name] = replace(sections[name], **given)
    return type(base)(**sections)


def by_section(settings: Mapping[str, object], where: str) -> Values:
    """{"optim.epochs": 10} as {"optim": {"epochs": 10}}; paths become text, and None is left out."""
    values: Values = {}
    for name, value in settings.items():
        section, dot, key = name.replace("-", "_").partition(".")
        if not dot:
            raise unknown_setting(f"{where}: unknown setting", name)
        if value is not None:
            values.setdefault(section, {})[key] = fspath(value) if isinstance(value, PathLike) else value
    return values


def setting_names() -> list[str]:
    """Every setting of a run, section.key."""
    return [f"{section}.{key}" for section, keys in to_dict(Config()).items() for key in keys]


def unknown_setting(what: str, name: str, before: str = "") -> UsageError:
    """The error for a setting without its section: `epochs` is meant to be optim.epochs.

    before: what each name is written with.
    """
    known = [f"{before}{full}" for full in setting_names()]
    plain = name.removeprefix(before).replace("-", "_").partition("=")[0]
    return unknown_name(what, name, known, [full for full in known if full.endswith(f".{plain}")])


def from_options(options: Mapping[str, object], kind: type[Made], unknown: str) -> Made:
    """A dataclass of options that nothing has checked yet.

    Raises UsageError for a value of another type, and for a name that it has not, as `unknown` 'NAME'.
    """
    types = typing.get_type_hints(kind)
    for name in options:
        if name not in types:
            raise unknown_name(unknown, name, types)
    return kind(**{name: typed(name, value, types[name]) for name, value in options.items()})


def typed(name: str, value: object, kind: Any) -> Any:
    """The value as `kind` (int, float, str, bool, Path or a Literal of strings, or one of them and None).

    Flags bring every value as text.  Raises UsageError.
    """
    if NoneType in (kinds := typing.get_args(kind)):
        return None if value is None else typed(name, value, kinds[0])
    if kind is Path:
        need(isinstance(value, str | PathLike), name, repr(value), "a path")
        return Path(str(value))
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        need(value in choices, name, value, f"one of {', '.join(choices)}")
        return value
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind in (int, float):
        try:
            # `true` is no number; of numpy's kinds of float it makes a plain one, which YAML can hold
            number = value if isinstance(value, Kept) else kind(str(value))
        except ValueError:
            number = math.nan
        need(math.isfinite(number), name, value, "a whole number" if kind is int else "a number")
        return number
    need(type(value) is kind, name, repr(value), "true or false" if kind is bool else "text")
    return value


def differences(one: Config, other: Config) -> list[str]:
    """Settings that decide the numbers of a run and differ: 'section.key: one -> other'."""
    free = set(FREE)
    if one.data.shuffle == other.data.shuffle == "full":
        free.add("data.window")
    a, b = to_dict(one), to_dict(other)
    mixing = any(a.get("finetune", {}).get(name) for name in ("mixup", "cutmix"))
    # images are mixed within a micro-batch; of a run that an earlier version began it is not known
    if not (mixing and one.optim.micro_batch):
        free.add("optim.micro_batch")
    return [
        f"{section}.{key}: {a[section][key]} -> {b[section][key]}"
        for section in a
        for key in a[section]
        if f"{section}.{key}" not in free and a[section][key] != b[section][key]
    ]
