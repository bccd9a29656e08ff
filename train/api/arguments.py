"""Arguments of the library's calls, checked as what Python callers give: numpy's numbers, torch's devices."""

import inspect
import operator
from collections.abc import Callable, Iterable
from numbers import Real
from typing import SupportsIndex, cast

import torch

from turbomim.pipeline.system.errors import UserError, need, to_warning, unknown_name
from turbomim.train.settings.dictionary import setting_names
from turbomim.train.world.distributed import choose_device


def check_names(settings: Iterable[str], function: Callable[..., object], sections: str = "") -> None:
    """Raise UsageError for a setting without a section: mostly an option of the function, misspelt.

    sections: what the settings begin with that the function takes, "model." for example; all if empty.
    """
    options = [
        name for name, each in inspect.signature(function).parameters.items() if each.kind != each.VAR_KEYWORD
    ]
    known = [name for name in setting_names() if name.startswith(sections)]
    for name in settings:
        if "." not in name:
            meant = [each for each in known if each.endswith(f".{name}")]
            raise unknown_name("unknown option", name, [*options, *known], meant)


def whole(name: str, number: object) -> int:
    """A whole number, which may be numpy's.  Raises UsageError."""
    found = isinstance(number, SupportsIndex) and not isinstance(number, bool)
    need(found, name, repr(number), "a whole number")
    return operator.index(cast(SupportsIndex, number))


def check_number(name: str, number: object) -> None:
    """Raise UsageError for what is no number."""
    need(isinstance(number, Real), name, repr(number), "a number")


def count(name: str, number: object) -> int:
    """A whole number of which 0 means automatic.  Raises UsageError."""
    found = whole(name, number)
    need(found >= 0, name, found, "0 (automatic) or more")
    return found


def line_taker(notify: Callable[[str], None] | None) -> Callable[[str], None]:
    """What takes a call's lines; of None each is a warning.  Raises UsageError for no function."""
    need(notify is None or callable(notify), "notify", repr(notify), "a function that takes a line, or None")
    return notify or to_warning


def device_kind(device: str | torch.device) -> str:
    """Give "cpu" or "cuda".  Raises UserError for a GPU that is not torch's current one."""
    found = choose_device(device)
    # asked for a number alone: the question opens the GPU, which may be another rank's still
    here = None if found.type == "cpu" or found.index is None else torch.cuda.current_device()
    if found.type == "cuda" and found.index != here:
        raise UserError(
            f"device {str(found)!r} is not torch's current one, cuda:{here}: call "
            f"torch.cuda.set_device({found.index}) first"
        )
    return found.type
