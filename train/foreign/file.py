"""Checkpoints of other programs, read as files that nobody vouches for: tensors come out, no code runs.

Besides tensors, training programs leave arguments, logs and averages of the weights in them, and wrap the
model, whose tensors then have longer names.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.train.foreign.torch_save import read_torch
from turbomim.train.foreign.unpickle import StandIn

# where programs keep the weights beside their optimizer: those that were trained, then averages of them
_TRAINED = ("model", "state_dict", "model_state_dict", "module")
_AVERAGES = ("model_ema", "ema", "state_dict_ema")
# parts of names that are what a model was wrapped in: DDP, torch.compile, FSDP, recomputation, Lightning
_WRAPPED = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "model")
# a count that torch's AveragedModel keeps beside the weights
_COUNT = "n_averaged"
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.bool)
_ZIP, _PICKLES = b"PK\x03\x04", tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
# what exports, and folders of the Hugging Face Hub, call the weights
EXPORTED = "model.safetensors"
# names of passed over classes and functions on one line
_MOST_NAMED = 3


def weights_file(path: Path) -> Path:
    """The file with the weights of an export's folder; any other path as it is."""
    inside = path / EXPORTED
    return inside if inside.is_file() else path


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Every tensor of a .pth, .pt or .safetensors by name, and what was passed over, a sentence each.

    Of a .pth that is a zip they are on the disk still.  Raises UserError: no checkpoint, cut short, no
    tensors by name, names or sizes that cannot be.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: give a checkpoint, .pth, .pt or .safetensors")
    if path.suffix == ".safetensors":
        return _checked(_read_safetensors(path), path), []
    tree, asked = _read_torch(path)
    notes = [f"passed over, nothing of it ran: {_few(asked)}"] if asked else []
    return _checked(_unwrapped(tree, path, notes), path), notes


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
        return found
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {_plain(error)}: download or copy it again") from error


def _read_torch(path: Path) -> tuple[object, list[str]]:
    with path.open("rb") as file:
        head = file.read(16)
    archive = head.startswith(_ZIP)
    if archive:
        _check_archive(path)
    elif not head.startswith(_PICKLES):
        what = "a web page" if head.lstrip()[:1] == b"<" else f"no checkpoint: it begins with {head!r}"
        raise UserError(f"{path} is {what}: download the file itself again, written by torch.save")
    try:
        return read_torch(path)
    # a damaged pickle fails with nearly any exception
    except Exception as error:
        raise UserError(f"{path} cannot be read: {_plain(error)}: download or copy it again") from error


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


def _unwrapped(tree: object, path: Path, notes: list[str]) -> dict[object, object]:
    """The dictionary that holds the weights."""
    wrappers = (*_TRAINED, *_AVERAGES)
    if isinstance(tree, dict):
        held = [key for key in wrappers if isinstance(tree.get(key), dict) and _has_tensors(tree[key])]
        if len(held) > 1:
            notes.append(
                f"taken are the tensors under {held[0]}; left out are those under {', '.join(held[1:])}"
            )
        elif held and held[0] in _AVERAGES:
            notes.append(
                f"taken are the tensors under {held[0]}, an average over training: there are no others"
            )
        inner = tree[held[0]] if held else tree
        if _has_tensors(inner):
            return inner
    remedy = "where it was made, save the weights alone, torch.save({'model': model.state_dict()}, FILE)"
    raise UserError(
        f"{path} holds no weights: neither at the top nor under {', '.join(wrappers)} are tensors by name"
        + "".join(f"; {note}: {remedy}" for note in notes)
    )


def _has_tensors(tree: dict[object, object]) -> bool:
    """Whether a dictionary's values are tensors, of whatever kind."""
    return any(
        isinstance(value, Tensor)
        or (isinstance(value, StandIn) and value.name.startswith("torch._utils._rebuild_"))
        for value in tree.values()
    )


def _checked(found: Mapping[Any, object], path: Path) -> dict[str, Tensor]:
    """The tensors, each with a plain name and numbers that are in the file."""
    tensors: dict[str, Tensor] = {}
    size, room = 0, path.stat().st_size
    for name, value in found.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{path}: {str(name)[:80]!r} is no tensor's name")
        if isinstance(value, StandIn):
            raise UserError(f"{path}: {name!r} is of a kind that no weight has, {_few([value.name])}")
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {name!r} is a {type(value).__name__} among the weights, no tensor")
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in _NUMBERS:
            raise UserError(f"{path}: {name!r} is of a kind that no weight has, {value.dtype} {value.layout}")
        size += value.numel() * value.element_size()
        if size > room:
            raise UserError(f"{path}: its tensors are larger than its {room:,} bytes; do not use it")
        tensors[name] = value.detach()
    return _plainly_named(tensors, path)


def _plainly_named(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by their names in the model itself.  Raises UserError if two become the same."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = ".".join(part for part in name.split(".") if part not in _WRAPPED)
        if new in plain:
            raise UserError(f"{path}: two tensors are {new!r}: {name!r} is one of them")
        plain[new] = tensor
    plain.pop(_COUNT, None)
    return plain


def _plain(error: Exception) -> str:
    """An error's first words, without what would move a terminal's cursor."""
    return _printable(one_line(error, 200))


def _few(names: list[str]) -> str:
    """The first names, and how many there are more."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(_printable(name[:80]) for name in names[:_MOST_NAMED]) + more


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
