"""Rows in files, whole or not at all, and beside each the list of the images that have no row."""

import json
import zipfile
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from turbomim.pipeline.system.durable import durable_file, json_bytes, make_folder_of, write_durably
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.system.safetensors_file import write_safetensors
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.listings import BadImage

# bytes, as JSON in the header of a safetensors file, which may have 100,000,000
MOST_KEYS = 90_000_000


def file_to_write(out: str | PathLike[str] | None, endings: tuple[str, ...]) -> Path | None:
    """The path of a file to write, if any.  Raises UsageError if its name does not say what to write."""
    path = None if out is None else Path(out)
    if path is not None and (path.suffix not in endings or path.is_dir()):
        raise UsageError(f"--out {path}: must be a file whose name ends in {' or '.join(endings)}")
    return path


def check_header(keys: list[str], out: Path) -> None:
    """Raise UsageError if a safetensors file cannot hold so many keys."""
    size = len(json.dumps(json.dumps(keys))) if out.suffix == ".safetensors" else 0
    if size > MOST_KEYS:
        raise UsageError(
            f"--out {out}: {len(keys):,} keys take {size:,} bytes of its header, the limit is {MOST_KEYS:,}: "
            "give a name ending in .npz"
        )


def write_arrays(out: Path, numbers: Mapping[str, NDArray[Any]], texts: Mapping[str, Any]) -> None:
    """Write arrays of numbers, and texts, to an npz or a safetensors file.

    texts: lists of names, which an npz has as arrays and a safetensors file as JSON in its metadata; and
    objects, JSON in both.
    """
    make_folder_of(out)
    if out.suffix == ".npz":
        words = {
            name: np.array(json.dumps(value) if isinstance(value, dict) else value)
            for name, value in texts.items()
        }
        with durable_file(out, needed=sum(array.nbytes for array in numbers.values())) as file:
            save_npz(file, {**numbers, **words})
    else:
        tensors = {name: torch.from_numpy(array) for name, array in numbers.items()}
        write_safetensors(out, tensors, {name: json.dumps(value) for name, value in texts.items()})


def save_npz(file: BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write what numpy.savez does: that one leaves its archive open on a full disk, and complains later."""
    # numpy 2.0 has no annotation of it
    write: Callable[..., None] = np.lib.format.write_array
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write(member, array, allow_pickle=False)


def left_out_path(out: Path) -> Path:
    """Where the images are named that the file has no row of."""
    return out.with_name(f"{out.name}.left-out.jsonl")


def write_left_out(out: Path, left_out: list[BadImage]) -> None:
    """Write the list of images without a row; remove that of an earlier file where each has one."""
    if left_out:
        make_folder_of(out)
        lines = [json_bytes({"key": image.path, "reason": image.reason}) for image in left_out]
        write_durably(left_out_path(out), b"".join(lines))
    else:
        left_out_path(out).unlink(missing_ok=True)


def left_out_line(out: Path, left_out: list[BadImage]) -> list[str]:
    """How many images have no row, and where they are named, in a line; none where each has one."""
    if not left_out:
        return []
    first = left_out[0]
    return [
        f"left out: {counted(len(left_out), 'image')}, named in {left_out_path(out)}; "
        f"first: {first.path!r}, {repr(first.reason)[1:-1]}"
    ]
