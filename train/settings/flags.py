"""What a command line says: a command's own flags, and settings, --section.field VALUE."""

import contextlib
import dataclasses
import io
import math
import re
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from turbomim.pipeline.places.opening import check_local
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.settings.config import Config
from turbomim.train.settings.known_flags import check_flags, flags_of, settings_of

T = TypeVar("T")
N = TypeVar("N", int, float)

# tyro's names of types, in words
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "PATH": "a path"}


def parse(kind: type[T], argv: list[str], prog: str) -> T:
    """A dataclass out of flags.

    Raises UsageError for flags that it has not, values of another type, and a URL for a Path: what may be one
    is a str.
    """
    # a machine lent for a measurement may not have it, and its benchmarks need no flags
    import tyro

    if any(word in ("-h", "--help") for word in argv):
        show_help(kind, prog)
    # before what tyro finds, which may be the flag that is missing for it
    check_flags(argv, flags_of(kind))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = tyro.cli(kind, args=argv, prog=prog)
    except SystemExit as error:
        raise UsageError(f"{_one_line(said.getvalue())}; see {prog} --help") from error
    _check_paths(options, argv)
    return options


def show_help(kind: type[T], prog: str, *config: Any, default: T | None = None) -> NoReturn:
    """Print the help of a dataclass's flags, and end.

    config: marks of tyro's; default: whose values are shown, those of the class if None.
    """
    import tyro

    # nothing is parsed: None may be typed, and a help that says so of every flag hides what else may be
    tyro.cli(
        kind,
        args=["--help"],
        prog=prog,
        config=(tyro.conf.DisallowNone, *config),
        default=tyro.MISSING_NONPROP if default is None else default,
    )
    raise SystemExit(0)


def _check_paths(options: object, argv: list[str]) -> None:
    """Raise UsageError for a Path among the flags that is a URL."""
    given = [word.partition("=")[0] for word in argv]
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        value = getattr(options, field.name)
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                flag = f"--{field.name}"
                check_local(flag if flag in given else field.name, path)


def _one_line(box: str) -> str:
    """What a box of tyro's says: below its title, with rules between, the error."""
    lines = [line.strip(" │╭╮╰╯") for line in box.splitlines()]
    parts = [" ".join(part.split()) for part in re.split(r"\n[─-]{4,}\n", "\n".join(["", *lines[1:]]))]
    error = next(part for part in parts if part)
    if error.startswith("Missing from "):
        return _missing(box)
    # tyro lists what each type of a union says of a value
    if wrong := re.match(r"Error parsing (\S+): no type matching (.+?) could be .* from \['(.*?)'\]", error):
        kinds = [_KINDS.get(kind, kind) for kind in wrong[2].split("|") if kind != "{None}"]
        return f"{wrong[1]} {wrong[3]}: must be {' or '.join(kinds)}"
    # in the order of a set, with the None of what may be left out
    if wrong := re.match(r"(invalid choice .*)\. Expected one of \((.*)\)\.?$", error):
        choices = sorted(word.strip(" '") for word in wrong[2].split(","))
        return f"{wrong[1]}: must be one of {', '.join(word for word in choices if word not in ('', 'None'))}"
    return error


def _missing(box: str) -> str:
    """`shard make needs SRC and DST`, out of a box that says of each what it is, further right."""
    command, _, below = box.split("Missing from turbomim ")[1].partition(":")
    # up to a rule or the box's end
    lines = [line.strip("│|").rstrip() for line in re.split(r"[─-]{4,}", below)[0].splitlines()[1:]]
    indent = min(len(line) - len(line.lstrip()) for line in lines if line)
    *others, last = [line.split()[0] for line in lines if line and line[indent] != " "]
    return f"{command} needs {', '.join(others)}{' and ' * bool(others)}{last}"


def python_bools(argv: list[str]) -> list[str]:
    """true and false as tyro wants them; people write them as in YAML."""
    return [{"true": "True", "false": "False"}.get(word, word) for word in argv]


def take_value(argv: list[str], flag: str) -> str | None:
    """Remove `--flag VALUE` or `--flag=VALUE` from argv and return the value."""
    for number, word in enumerate(argv):
        if word == flag:
            if number + 1 == len(argv):
                raise UsageError(f"{flag} needs a value")
            value = argv[number + 1]
            del argv[number : number + 2]
            return value
        if word.startswith(f"{flag}="):
            del argv[number]
            return word.split("=", 1)[1]
    return None


def take_number(argv: list[str], flag: str, kind: type[N]) -> N | None:
    """Remove `--flag NUMBER` from argv and return the number, int or float, above 0.  Raises UsageError."""
    text = take_value(argv, flag)
    if text is None:
        return None
    try:
        number = kind(text)
    except ValueError:
        number = kind(0)
    if not 0 < number < math.inf:
        raise UsageError(f"{flag} {text}: must be a {'whole ' * (kind is int)}number above 0")
    return number


def check_least(**least: tuple[int, int]) -> None:
    """Raise UsageError for a flag below its least value.  least: (value, least) by the flag's name."""
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least {lowest}")


def take_settings(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The words of a command line that are no settings, and the settings as the library takes them.

    `RUN --batch 2 --model.heads 3 --data.size=64` gives
    (["RUN", "--batch", "2"], {"model.heads": "3", "data.size": "64"}).
    Raises UsageError for a setting without a value.
    """
    own: list[str] = []
    settings: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        flag, equals, text = word.partition("=")
        if not flag.startswith("--") or "." not in flag:
            own.append(word)
            continue
        value = text if equals else next(words, None)
        if value is None:
            raise UsageError(f"{flag} needs a value")
        settings[flag.removeprefix("--").replace("-", "_")] = value
    return own, settings


def parse_with_settings(
    kind: type[T], argv: list[str], prog: str, config: type = Config
) -> tuple[T, dict[str, Any]]:
    """A dataclass out of a command's own flags, and the settings among them, which are of `config`.

    Raises UsageError.
    """
    check_flags(argv, flags_of(kind) | settings_of(config))
    own, settings = take_settings(argv)
    return parse(kind, own, prog), settings


def arguments_of(options: Any) -> dict[str, Any]:
    """A dataclass of flags as the arguments of the function that the command calls."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
