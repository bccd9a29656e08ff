"""Arguments of the library's calls, checked as what Python callers give: numpy's numbers, torch's devices."""

import operator
from numbers import Real
from typing import SupportsIndex, cast

import torch

from turbomim.pipeline.system.errors import UserError, need
from turbomim.train.world.distributed import choose_device


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
