"""The same photographs in the format of every loader, made once and kept between runs.

Sample i of our shards is file i of the "files" set, in every store, and so sample i of what is made of those.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from PIL import Image

from turbomim.benchmarks.loader.job import peer_module
from turbomim.benchmarks.loader.process import ask
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.store import SUBSAMPLINGS, Kind, Subsampling

CONVERSION_S: Final = 3600.0

JPEG_NAMES: Final = {".jpg", ".jpeg"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """quality: 1 to 100; subsampling: of the chroma."""

    quality: int
    subsampling: Subsampling

    @classmethod
    def parse(cls, text: str) -> Encoding:
        """Read QUALITY:SUBSAMPLING, for example 96:4:4:4.  Raises UserError."""
        quality, _, name = text.partition(":")
        for subsampling in SUBSAMPLINGS:
            if name == subsampling and quality.isdecimal() and 1 <= int(quality) <= 100:
                return cls(quality=int(quality), subsampling=subsampling)
        names = " or ".join(SUBSAMPLINGS)
        raise UserError(f"{text!r} is no encoding: write QUALITY:SUBSAMPLING, 1 to 100 and {names}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sets:
    """Where the sets of one collection of photographs lie, and how they are made.

    images: the photographs as found; count: of them, the first by name, 0 for all; reencode: None keeps their
    bytes; size: short side of the resized and the raw store; resized: encoding of the former; shard_size:
    photographs a shard, None for the usual number.
    """

    images: Path
    work: Path
    count: int
    reencode: Encoding | None
    size: int
    resized: Encoding
    cores: int
    shard_size: int | None = None

    def get(self, store: Kind, peer: str) -> tuple[Path, float]:
        """The folder of the set that a peer reads, made if need be, and the seconds that making it took.

        The seconds of resizing count for whoever reads what was resized; files as they were cost none.
        Raises RuntimeError if the peer's library fails.
        """
        kind: str = peer_module(peer).READS
        shards, packing = self._shards(store)
        if kind == "shards":
            return shards, packing
        resizing = 0.0 if store == "original" else packing
        if kind == "files":
            return self._files(store), resizing
        request = {"peer": peer, "files": str(self._files(store)), "cores": self.cores}
        folder, seconds = self._make(
            f"{kind}-{store}", lambda folder: ask(request | {"convert": str(folder)}, CONVERSION_S)
        )
        return folder, resizing + seconds

    def _files(self, store: Kind) -> Path:
        """Photographs of the shards as files, numbered by sample."""
        shards, _ = self._shards(store)
        return self._make(f"files-{store}", partial(unpack, shards))[0]

    def _shards(self, store: Kind) -> tuple[Path, float]:
        pool, _ = self._make("pool", self._fill_pool)
        return self._make(f"shards-{store}", lambda folder: self._pack(pool, folder, store))

    def _pack(self, pool: Path, folder: Path, store: Kind) -> None:
        settings = ShardSettings(name="photographs", store=store, shard_size=self.shard_size)
        if store != "original":
            settings = replace(settings, short_side=self.size)
        if store == "resized":
            settings = replace(settings, quality=self.resized.quality, subsampling=self.resized.subsampling)
        make_shards(pool, folder, settings, workers=self.cores)

    def _fill_pool(self, folder: Path) -> None:
        paths = self._found()
        targets = [folder / path.relative_to(self.images) for path in paths]
        for parent in {target.parent for target in targets}:
            parent.mkdir(parents=True, exist_ok=True)
        with get_context("spawn").Pool(self.cores) as pool:
            pool.starmap(
                partial(copy_photograph, self.reencode), zip(paths, targets, strict=True), chunksize=32
            )

    def _found(self) -> list[Path]:
        paths = sorted(path for path in self.images.rglob("*") if path.suffix.lower() in JPEG_NAMES)
        if not paths:
            raise UserError(
                f"no JPEG files in {str(self.images)!r}: give a folder of photographs with --images"
            )
        return paths[: self.count or None]

    def _make(self, name: str, write: Callable[[Path], object]) -> tuple[Path, float]:
        """Make the set `name` unless it is there, and remember the seconds."""
        folder = self._home() / name
        seconds = folder.with_name(f"{name}.seconds.json")
        if not seconds.exists():
            shutil.rmtree(folder, ignore_errors=True)
            begun = time.perf_counter()
            write(folder)
            # written last: a set that was cut short is made again
            seconds.write_text(json.dumps(time.perf_counter() - begun))
        return folder, float(json.loads(seconds.read_text()))

    def _home(self) -> Path:
        key = repr(
            (str(self.images.resolve()), self.count, self.reencode, self.size, self.resized, self.shard_size)
        )
        home = self.work / hashlib.sha256(key.encode()).hexdigest()[:12]
        home.mkdir(parents=True, exist_ok=True)
        return home


def copy_photograph(encoding: Encoding | None, source: Path, target: Path) -> None:
    """Copy a JPEG, or encode its pixels anew."""
    if encoding is None:
        shutil.copyfile(source, target)
        return
    with Image.open(source) as image:
        image.convert("RGB").save(target, "JPEG", quality=encoding.quality, subsampling=encoding.subsampling)


def unpack(shards: Path, folder: Path) -> None:
    """Write the photographs of shards into `folder`, named by their number."""
    folder.mkdir()
    for number, (name, content) in enumerate(members(shards)):
        (folder / f"{number:07d}{Path(name).suffix}").write_bytes(content)


def members(shards: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the images in shards, in storage order."""
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith(".cls"):
                    file = tar.extractfile(member)
                    assert file is not None
                    yield member.name, file.read()


def read_all(folder: Path) -> int:
    """Read every file of a set, so that its bytes are in the page cache; return the bytes."""
    buffer = bytearray(1 << 20)
    total = 0
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with io.FileIO(path) as file:
            while count := file.readinto(buffer):
                total += count
    return total
