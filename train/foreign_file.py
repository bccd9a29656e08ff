"""Checkpoints of other programs, read as files that nobody vouches for: tensors come out, no code runs.

`torch.load` reads them with `weights_only=True` and nothing else.  Besides tensors, training programs leave
their arguments and logs in them; harmless stand-ins take the place of those classes, named below.  Any other
class ends in an error.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from turbomim.pipeline.errors import UserError

# where programs keep the weights beside their optimizer
_WRAPPERS = ("model", "state_dict")
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80\x02"


class _Nothing:
    """What an object of another program is read as: its state is passed over."""

    def __new__(cls, *_: object) -> _Nothing:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


class _Options:
    """What a dictionary of another program's class is read as: torch fills only its own kinds."""

    def __new__(cls, *_: object) -> OrderedDict[str, object]:  # type: ignore[misc]
        return OrderedDict()


# MAE's and LSMAE's arguments, SimMIM's settings, mmengine's log and the numbers in it, by numpy 1 and 2
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Nothing, "argparse.Namespace"),
    (_Options, "yacs.config.CfgNode"),
    (_Nothing, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_Nothing, "numpy.ndarray"),
    (_Nothing, "numpy.dtype"),
    *(
        (_Nothing, f"numpy.{core}.multiarray.{f}")
        for core in ("core", "_core")
        for f in ("_reconstruct", "scalar")
    ),
]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a .pth, .pt or .safetensors by name, on the disk still where that is possible.

    Raises UserError: no checkpoint, cut short, more than tensors, names or sizes that cannot be.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a checkpoint, .pth, .pt or .safetensors")
    tree = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _checked(_unwrapped(tree, path), path)


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {_plain(error)}: download or copy it again") from error


def _read_torch(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(16)
    archive = head.startswith(_ZIP)
    if archive:
        _check_archive(path)
    elif not head.startswith(_PICKLE):
        what = "a web page" if head.lstrip()[:1] == b"<" else f"no checkpoint: it begins with {head!r}"
        raise UserError(f"{path} is {what}: download the file itself again, written by torch.save")
    try:
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            # an error says what is wrong, in one line
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    # a damaged pickle fails with nearly any exception
    except Exception as error:
        blamed = re.search(r"GLOBAL (\S+)", str(error))
        if blamed is None:
            text = f"cannot be read: {_plain(error)}: download or copy it again"
        else:
            text = (
                f"holds more than tensors: {blamed[1][:80]!r}, whose code would have to run; nothing ran: "
                "where it was made, save the weights alone, torch.save({'model': model.state_dict()}, FILE)"
            )
        raise UserError(f"{path} {text}") from error


def _check_archive(path: Path) -> None:
    """Raise UserError if a zip is cut short, or would grow when it is read."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    # its table of contents is what is damaged
    except Exception as error:
        raise UserError(f"{path} is cut short or damaged ({size:,} bytes): download it again") from error
    if any(e.compress_type for e in entries) or sum(e.file_size for e in entries) > size:
        raise UserError(f"{path} is a compressed archive, which torch.save does not write: unpack it first")


def _unwrapped(tree: object, path: Path) -> dict[object, object]:
    """The dictionary that holds the weights."""
    if isinstance(tree, dict):
        inner = next((tree[key] for key in _WRAPPERS if isinstance(tree.get(key), dict)), tree)
        if any(isinstance(value, Tensor) for value in inner.values()):
            return inner
    raise UserError(
        f"{path} holds no weights: neither at the top nor under {' or '.join(_WRAPPERS)} are tensors by name"
    )


def _checked(found: dict[object, object], path: Path) -> dict[str, Tensor]:
    """The tensors, each with a plain name and numbers that are in the file, without DDP's `module.`."""
    tensors: dict[str, Tensor] = {}
    size, room = 0, path.stat().st_size
    for name, value in found.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{path}: {str(name)[:80]!r} is no tensor's name")
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {name!r} is a {type(value).__name__} among the weights, no tensor")
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in _NUMBERS:
            raise UserError(f"{path}: {name!r} is of a kind that no weight has, {value.dtype} {value.layout}")
        size += value.numel() * value.element_size()
        if size > room:
            raise UserError(f"{path}: its tensors are larger than its {room:,} bytes; do not use it")
        tensors[name] = value.detach()
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _plain(error: Exception) -> str:
    """An error's first words, without what would move a terminal's cursor."""
    text = str(error).split("WeightsUnpickler error:")[-1].split("Check the documentation")[0]
    text = " ".join(text.split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
