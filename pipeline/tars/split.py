"""A split: a folder of tar shards, checked against its manifest, and the index of every sample."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.executors import on_threads
from turbomim.pipeline.system.remedies import remedy
from turbomim.pipeline.tars.index import Members, check_bounds, check_layout, parse_index
from turbomim.pipeline.tars.manifest import (
    REMEDY,
    Manifest,
    Shard,
    absence,
    check_shards,
    index_name,
    load_manifest,
)
from turbomim.pipeline.tars.tar import BLOCK


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SampleIndex:
    """Where each sample lies: one entry a sample, in shard order, then tar order. N = samples.

    shard_N: int32, place in `Manifest.shards`.  offset_N: int64, first data byte of the label's member;
    label_bytes_N: int16, its size, 0 where there is no label: offset_N is then the image's.  image_offset_N:
    int64, first data byte of the image; image_bytes_N: int32, its size.
    """

    shard_N: npt.NDArray[np.int32]
    offset_N: npt.NDArray[np.int64]
    label_bytes_N: npt.NDArray[np.int16]
    image_offset_N: npt.NDArray[np.int64]
    image_bytes_N: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.shard_N)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """An opened split: its folder, what it must hold, and where each sample lies."""

    path: Path
    manifest: Manifest
    index: SampleIndex

    def shard_path(self, shard: int) -> Path:
        """Give the path of a shard's tar file. shard: place in the manifest."""
        return self.path / self.manifest.shards[shard].name

    def locate(self, sample: int) -> str:
        """Name a sample for people: `SHARD:KEY.jpg:OFFSET`, read from the image's own tar header."""
        shard, offset = int(self.index.shard_N[sample]), int(self.index.image_offset_N[sample])
        with open(self.shard_path(shard), "rb") as tar:
            tar.seek(offset - BLOCK)
            member = tar.read(100).rstrip(b"\0")
        return f"{self.manifest.shards[shard].name}:{ascii(member.decode('latin-1'))[1:-1]}:{offset}"


def open_split(path: str | os.PathLike[str], *, hashing: bool = True) -> Split:
    """Open a split: read its manifest, check every shard against it, load the index.

    hashing: whether a shard newer than the manifest is hashed; another process may have done so.
    Raises UserError: no manifest, no samples, a shard that is missing, shorter, longer or changed, an index
    file that is missing or belongs to another tar.
    """
    folder = Path(path)
    manifest = load_manifest(folder)
    if manifest.samples == 0:
        raise UserError(f"the split {str(folder)!r} holds 0 samples: make it from a folder with images")
    check_shards(folder, manifest, hashing=hashing)
    return Split(path=folder, manifest=manifest, index=load_index(folder, manifest))


def parse_index_of(shard: Shard, text: bytes, members: Members, *, foreign: bool) -> npt.NDArray[np.int64]:
    """Parse the index file of a shard as `parse_index` does.  Raises ValueError, also if it does not fit."""
    columns_4N = parse_index(text, members)
    check = check_bounds if foreign else check_layout
    check(columns_4N, shard.samples, shard.bytes)
    return columns_4N


def load_index(folder: Path, manifest: Manifest) -> SampleIndex:
    """Read the .idx file of every shard.  Raises UserError if one is missing or does not fit its tar."""
    members = Members.of(manifest.made)
    starts = np.cumsum([0, *(shard.samples for shard in manifest.shards)]).tolist()
    # filled shard by shard: to join lists of int64 would take five times the memory of the index
    index = SampleIndex(
        shard_N=np.empty(starts[-1], np.int32),
        offset_N=np.empty(starts[-1], np.int64),
        label_bytes_N=np.empty(starts[-1], np.int16),
        image_offset_N=np.empty(starts[-1], np.int64),
        image_bytes_N=np.empty(starts[-1], np.int32),
    )
    columns: tuple[npt.NDArray[Any], ...] = (
        index.offset_N,
        index.label_bytes_N,
        index.image_offset_N,
        index.image_bytes_N,
    )

    def load(number: int) -> None:
        shard = manifest.shards[number]
        path = folder / index_name(shard.name)
        try:
            columns_4N = parse_index_of(shard, path.read_bytes(), members, foreign=manifest.foreign)
        except OSError as error:
            raise UserError(f"index file {str(path)!r} {absence(error)}; {remedy(error, REMEDY)}") from error
        except ValueError as error:
            raise UserError(f"index file {str(path)!r} does not fit its shard: {error}; {REMEDY}") from error
        rows = slice(starts[number], starts[number + 1])
        index.shard_N[rows] = number
        for column_N, parsed_N in zip(columns, columns_4N, strict=True):
            column_N[rows] = parsed_N

    on_threads(load, range(len(manifest.shards)))
    return index
