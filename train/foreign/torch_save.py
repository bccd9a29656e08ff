"""The two formats of `torch.save`: tensors come out, nothing that a file names runs.

Of a zip, they stay on the disk until they are used.  Source: torch.serialization.
"""

import io
import mmap
import struct
import sys
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from turbomim.train.foreign.unpickle import BadPickle, unpickle

# of torch's format of before 1.6
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def read_torch(path: Path) -> tuple[object, list[str]]:
    """What a file of torch.save's holds, and the names of the classes and functions that it asks for.

    Raises BadPickle, and for a damaged file nearly any other Exception.
    """
    with path.open("rb") as file:
        # changes stay in memory; tensors keep it open
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    asked: dict[str, None] = {}
    read = _read_archive if mapped[:2] == b"PK" else _read_old
    return read(path, mapped, asked), list(asked)


def _read_archive(path: Path, mapped: mmap.mmap, asked: dict[str, None]) -> object:
    """A zip, its entries not compressed: data.pkl, and a storage in each of data/0, data/1 …"""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    pickled = next((name for name in entries if name.endswith("/data.pkl")), None)
    if pickled is None:
        raise BadPickle("the archive has no data.pkl")
    folder = pickled.removesuffix("data.pkl")
    made: dict[str, Tensor] = {}

    def place(name: str) -> tuple[int, int]:
        """Where an entry's bytes begin, and how many they are."""
        entry = entries[name]
        names, extra = struct.unpack_from("<HH", mapped, entry.header_offset + 26)
        return entry.header_offset + 30 + names + extra, entry.file_size

    def content(name: str) -> bytes:
        begin, size = place(name)
        return mapped[begin : begin + size]

    order = content(f"{folder}byteorder").decode() if f"{folder}byteorder" in entries else "little"

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        begin, size = place(f"{folder}data/{key}")
        if count * dtype.itemsize > size:
            raise BadPickle(f"storage {key} has {size:,} bytes, less than {count:,} numbers")
        if key not in made:
            flat = _numbers(mapped, dtype, count, begin)
            made[key] = flat if order == sys.byteorder else _swapped(flat)
        return made[key]

    return unpickle(io.BytesIO(content(pickled)), storage, asked)


def _read_old(_: Path, mapped: mmap.mmap, asked: dict[str, None]) -> object:
    """Pickles one behind the other, the last of them names of storages, which follow."""
    made: dict[str, Tensor] = {}
    claimed = 0

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        nonlocal claimed
        if key not in made:
            claimed += count * dtype.itemsize
            if claimed > len(mapped):
                raise BadPickle(f"its storages have {claimed:,} bytes, the file {len(mapped):,}")
            made[key] = torch.empty(count, dtype=dtype)
        return made[key]

    if unpickle(mapped, storage, asked) != _MAGIC or unpickle(mapped, storage, asked) != _VERSION:
        raise BadPickle("torch.save's mark is not at its beginning")
    machine = unpickle(mapped, storage, asked)
    if not isinstance(machine, dict) or not machine.get("little_endian", True):
        raise BadPickle("it was written on a big-endian machine, in torch's old format")
    tree, keys = unpickle(mapped, storage, asked), unpickle(mapped, storage, asked)
    if not isinstance(keys, list) or sorted(keys) != sorted(made):
        raise BadPickle("the storages are not those of its tensors")
    for key in keys:
        (count,) = struct.unpack("<q", mapped.read(8))
        flat = made[key]
        if count != len(flat):
            raise BadPickle(f"storage {key} has {count:,} numbers, not {len(flat):,}")
        flat.copy_(_numbers(mapped, flat.dtype, count, mapped.tell()))
        mapped.seek(flat.nbytes, 1)
    return tree


def _numbers(mapped: mmap.mmap, dtype: torch.dtype, count: int, begin: int) -> Tensor:
    # torch refuses what lies outside, and a count of 0
    return (
        torch.frombuffer(mapped, dtype=dtype, count=count, offset=begin)
        if count
        else torch.empty(0, dtype=dtype)
    )


def _swapped(flat: Tensor) -> Tensor:
    """The numbers with their bytes the other way round."""
    bytes_NB = flat.contiguous().view(torch.uint8).view(-1, flat.element_size())
    return bytes_NB.flip(1).view(-1).view(flat.dtype)
