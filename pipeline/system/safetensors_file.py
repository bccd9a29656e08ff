"""Tensors in a .safetensors file: the one place that writes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from turbomim.pipeline.system.durable import durable_file, sync
from turbomim.pipeline.system.remedies import number_of


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors in host memory, whole or not at all.  Raises UserError as `durable_file` does."""
    with durable_file(path, needed=sum(tensor.nbytes for tensor in tensors.values())) as file:
        save_tensors(Path(file.name), tensors, metadata)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write and sync a .safetensors in place, for a folder that is moved as a whole later.

    The file gets the mode that `open` gives, by the umask: safetensors puts one of its own there, which only
    its owner may read.  Raises OSError if the system refuses, also where safetensors wraps that in its own.
    """
    with open(path, "wb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        number = number_of(error)
        raise (OSError(number, os.strerror(number)) if number else OSError(str(error))) from error
    with open(path, "rb") as file:
        # a file system of one mode for all files has given the usual one
        with suppress(PermissionError):
            os.fchmod(file.fileno(), mode)
        sync(file.fileno())
