"""A split: tar shards in one place, checked against their manifest, and the index of every sample."""

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt

from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
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
from turbomim.pipeline.tars.shard_cache import ShardCache
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
    """An opened split: where it lies, what it must hold, and where each sample lies.

    place: of manifest and index files; tars: of the tar files, in most splits the same; versions: of each
    shard when the split was opened; a shard with another is not read; cache: shards that are kept on a disk
    of this machine.
    """

    place: Place
    tars: Place
    manifest: Manifest
    index: SampleIndex
    versions: tuple[str, ...]
    cache: ShardCache | None = None

    @property
    def folder(self) -> Path:
        """The folder of the tar files, of a split that is in one of this machine."""
        assert self.tars.folder is not None
        return self.tars.folder

    def shard_path(self, shard: int) -> Path:
        """Give the path of a shard's tar file, of a split in a folder. shard: number in the manifest."""
        return self.folder / self.manifest.shards[shard].name

    def read_into(self, shard: int, buffer: memoryview, offset: int, *, halt: Event | None = None) -> int:
        """Fill `buffer` from a shard's tar file, as `Place.read_into` does."""
        name, version = self.manifest.shards[shard].name, self.versions[shard]
        return self.tars.read_into(name, buffer, offset, version=version, halt=halt)

    def locate(self, sample: int) -> str:
        """Name a sample for people: `SHARD:KEY.jpg:OFFSET`, read from the image's own tar header."""
        shard, offset = int(self.index.shard_N[sample]), int(self.index.image_offset_N[sample])
        name = bytearray(100)
        self.read_into(shard, memoryview(name), offset - BLOCK)
        member = name.rstrip(b"\0").decode(errors="surrogateescape")
        return f"{self.manifest.shards[shard].name}:{repr(member)[1:-1]}:{offset}"


# the version of each shard, and where each sample lies
Found = tuple[tuple[str, ...], SampleIndex]


def open_split(path: str | os.PathLike[str], *, hashing: bool = True, found: Found | None = None) -> Split:
    """Open a split: read its manifest, check every shard against it, load the index.

    path: its folder, or its URL in a store of objects; hashing: whether a shard newer than the manifest is
    hashed; another process may have done so; found: what another process found there, and nobody asks again.
    Raises UserError: no manifest, no samples, a shard that is missing, shorter, longer or changed, an index
    file that is missing or belongs to another tar.
    """
    place = open_place(path)
    manifest = load_manifest(place)
    if manifest.samples == 0:
        raise UserError(f"the split {str(place)!r} holds 0 samples: make it from a folder with images")
    tars = place if manifest.tars is None else open_place(manifest.tars)
    versions, index = found or (check_shards(tars, manifest, hashing=hashing), load_index(place, manifest))
    return Split(place=place, tars=tars, manifest=manifest, index=index, versions=versions)


def parse_index_of(shard: Shard, text: bytes, members: Members, *, foreign: bool) -> npt.NDArray[np.int64]:
    """Parse the index file of a shard as `parse_index` does.  Raises ValueError, also if it does not fit."""
    columns_4N = parse_index(text, members)
    check = check_bounds if foreign else check_layout
    check(columns_4N, shard.samples, shard.bytes)
    return columns_4N


def load_index(place: Place, manifest: Manifest) -> SampleIndex:
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
        name = index_name(shard.name)
        where = place.at(name)
        try:
            columns_4N = parse_index_of(shard, place.read(name), members, foreign=manifest.foreign)
        except OSError as error:
            raise UserError(f"index file {where!r} {absence(error)}; {remedy(error, REMEDY)}") from error
        except ValueError as error:
            raise UserError(f"index file {where!r} does not fit its shard: {error}; {REMEDY}") from error
        rows = slice(starts[number], starts[number + 1])
        index.shard_N[rows] = number
        for column_N, parsed_N in zip(columns, columns_4N, strict=True):
            column_N[rows] = parsed_N

    on_threads(load, range(len(manifest.shards)))
    return index
