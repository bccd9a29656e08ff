"""Which flags a command has, and which values they take: for refusals that name the flag that was meant, and
for completion.
"""

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from turbomim.pipeline.system.errors import UsageError, unknown_name

# the values that a flag chooses among, by the flag; none where it takes any
Flags = dict[str, tuple[str, ...]]

# what gives flags: a dataclass as tyro reads it, or a function that makes a parser of argparse
Options = type | Callable[[], argparse.ArgumentParser]


def flags_of(options: Options) -> Flags:
    """The flags of a command, without --help.  Positional arguments are none."""
    return _of_dataclass(options) if isinstance(options, type) else _of_parser(options())


def settings_of(config: type) -> Flags:
    """--section.field of a tree of settings, as help writes them."""
    sections = typing.get_type_hints(config).items()
    return {flag: values for name, section in sections for flag, values in _of_section(name, section).items()}


def check_flags(words: Sequence[str], known: Flags) -> None:
    """Raise UsageError for a word --FLAG or --FLAG=VALUE whose flag is none of these, with what was meant."""
    for word in words:
        flag = _dashed(word.partition("=")[0])
        if flag.startswith("--") and flag not in ("--", "--help", *known):
            raise _unknown_flag(flag, known)


def _unknown_flag(flag: str, known: Flags) -> UsageError:
    """The error: `--dat` is meant to be --data sooner than --data.path, and `--lr` --optim.base-lr."""
    section, dot, last = flag.rpartition(".")
    if dot:
        # of another section, or with the end of its name alone
        sure = [name for name in known if name.endswith(f".{last}")]
        sure = sure or [
            name for name in known if name.startswith(f"{section}.") and name.endswith(f"-{last}")
        ]
        return unknown_name("unknown flag", flag, known, sure)
    no = flag.startswith("--no-")
    own = {name[2:]: name for name in known if "." not in name and name.startswith("--no-") == no}
    fields = {name.rpartition(".")[2]: name for name in known if "." in name}
    whole = [name for name in known if name.endswith(f".{flag[2:]}")]
    # a section alone, and one with a dash for its dot
    whole += [name for name in (f"{flag}.path", f"--{flag[2:].replace('-', '.', 1)}") if name in known]
    close = [
        names[word] for names in (own, fields) for word in difflib.get_close_matches(flag[2:], names, n=1)
    ]
    ends = [name for name in known if "." in name and name.endswith(f"-{flag[2:]}")]
    sure = whole[:1] or ends[:3] or close[:1]
    if not own and not sure:
        return UsageError(f"unknown flag {flag!r}: there are none but --help")
    return unknown_name("unknown flag", flag, own.values(), sure)


def _of_dataclass(options: type) -> Flags:
    # where only benchmarks run, and none needs flags, it may not be installed
    from tyro.conf import FlagConversionOff, Positional

    found: Flags = {}
    hints = typing.get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        marks = getattr(hint, "__metadata__", ())
        kind = hint.__origin__ if marks else hint
        if Positional in marks:
            continue
        named = (mark.name for mark in marks if getattr(mark, "name", None))
        name = _dashed(next(named, field.name))
        if dataclasses.is_dataclass(kind):
            found |= _of_section(name, kind)
        elif kind is bool and any(getattr(mark, "metavar", None) == "" for mark in marks):
            found[f"--{name}"] = ()
        elif kind is bool and FlagConversionOff not in marks:
            found |= {f"--{name}": (), f"--no-{name}": ()}
        else:
            found[f"--{name}"] = _choices(kind)
    return found


def _of_section(name: str, section: Any) -> Flags:
    return {
        f"--{name}.{_dashed(key)}": _choices(kind) for key, kind in typing.get_type_hints(section).items()
    }


def _of_parser(parser: argparse.ArgumentParser) -> Flags:
    return {
        name: tuple(str(choice) for choice in action.choices or ())
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--") and name != "--help"
    }


def _choices(kind: Any) -> tuple[str, ...]:
    """The words that a type takes, if they can be listed; of a union those of its parts, but for None."""
    if kind is bool:
        return ("true", "false")
    if typing.get_origin(kind) is Literal:
        return tuple(str(choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(word for part in typing.get_args(kind) for word in _choices(part))
    return ()


def _dashed(name: str) -> str:
    return name.replace("_", "-")
