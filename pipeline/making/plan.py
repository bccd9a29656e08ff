"""What a run of `make_shards` is to do: the photographs listed, shuffled and cut into jobs."""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from turbomim import __version__
from turbomim.pipeline.making.list_rows import DELIMITERS
from turbomim.pipeline.making.photo_list import check_there, read_list
from turbomim.pipeline.making.photographs import Photograph, Photographs, find_photographs
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.making.shard_job import ShardJob
from turbomim.pipeline.making.unread_lists import unread_lists
from turbomim.pipeline.places.opening import is_remote
from turbomim.pipeline.system.errors import UsageError, UserError

MAX_SHARDS = 1_000_000
SHARD_SIZE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run is to do.  name: of the data set, given or the source's; found: the photographs.

    made: how the shards are made, for the manifest: equal ones give equal bytes, on any machine.
    """

    name: str
    settings: ShardSettings
    found: Photographs
    made: dict[str, Any]

    def shard_stem(self, number: int) -> str:
        """The name of a shard without its extension."""
        return f"{self.name}-{self.settings.split}-{number:06d}"

    def identity(self) -> dict[str, Any]:
        """What another run of the same split must agree with."""
        return {"name": self.name, "split": self.settings.split, **self.made}


def find_source(
    source: str | os.PathLike[str],
    root: Path | None = None,
    columns: str | None = None,
    skip: str | None = None,
) -> Photographs:
    """List the photographs of a folder, of a place, or of a .csv, .tsv or .txt list.

    root: what a list's paths start from; columns: what its columns are called, path=NAME,label=NAME.  skip:
    patterns of names below a folder that are passed over too.
    """
    source = os.fspath(source)
    if Path(source).suffix.lower() in DELIMITERS and not os.path.isdir(source):
        if is_remote(source):
            raise UserError(
                f"{source!r}: a list and its images must be files of this machine: copy them here, or give "
                "the images' folder in the store"
            )
        if skip is not None:
            raise UsageError("--skip belongs to a folder: leave it out for a list")
        listed = read_list(Path(source), root, columns)
        check_there(Path(source), listed)
        return listed
    for option, value in (("--root", root), ("--columns", columns)):
        if value is not None:
            raise UsageError(f"{option} belongs to a .csv, .tsv or .txt list: leave it out for a folder")
    found = find_photographs(source, skip)
    if is_remote(source):
        return found
    return replace(found, notes=(*found.notes, *unread_lists(Path(source), found)))


def source_name(source: str) -> str:
    """The last part of a source's path or URL."""
    return source.rstrip("/").rpartition("/")[2] if is_remote(source) else Path(source).resolve().name


def default_name(source: str | os.PathLike[str]) -> str:
    """Make the source's name fit for file names."""
    source = os.fspath(source)
    name = source_name(source)
    name = name if is_remote(source) or os.path.isdir(source) else Path(name).stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:100] or "images"


def describe_making(source: str, settings: ShardSettings, found: Photographs) -> dict[str, Any]:
    """Say, for the manifest, how the shards are made; the digest takes seconds for a million photographs.

    source_images_sha256: over path, label and size of each image, the classes, and what was refused.
    """
    store = settings.stored_as()
    lines = [f"{image.path}\0{image.label}\0{image.bytes}\n" for image in found.images]
    lines += [*found.classes, *(f"{bad.path}\0{bad.reason}\n" for bad in found.refused)]
    made: dict[str, Any] = {
        "by": f"turbomim {__version__}",
        "source": source_name(source),
        "store": store.to_json(),
        "seed": settings.seed,
        "samples_per_shard": None if settings.shard_count else settings.shard_size or SHARD_SIZE,
        "shard_count": settings.shard_count,
        "min_side": settings.min_side,
        "check": settings.check,
        "source_images_sha256": _digest(lines),
    }
    if store.kind != "original":
        # DALI takes a second to import
        from turbomim.pipeline.making.transcode import encoders

        made["encoders"] = encoders(store)
    return made


def source_times(found: Photographs) -> str:
    """Identify when the source files were last changed."""
    return _digest([f"{image.path}\0{image.mtime_ns}\n" for image in found.images])


def plan_jobs(plan: Plan, folder: str, mark: str = "") -> list[ShardJob]:
    """Shuffle the images and cut them into jobs that write in `folder`: a pure function of its arguments.

    mark: of the run's lease, where `folder` is a URL.

    The order is that of a keyed hash of each path, so it is the same on every machine and library version.
    """
    settings, found = plan.settings, plan.found
    salt = settings.seed.to_bytes(8, "little")

    def rank(image: Photograph) -> tuple[bytes, bytes]:
        path = os.fsencode(image.path)
        return hashlib.blake2b(path, digest_size=8, key=salt).digest(), path

    images = sorted(found.images, key=rank)
    edges = _edges(len(images), settings)
    return [
        ShardJob(
            number=number,
            # a worker elsewhere has another working folder
            root=found.root if is_remote(found.root) else os.path.abspath(found.root),
            folder=folder,
            stem=plan.shard_stem(number),
            images=tuple(images[first:last]),
            min_side=settings.min_side,
            check=settings.check,
            on_bad=settings.on_bad,
            store=settings.stored_as(),
            mark=mark,
        )
        for number, (first, last) in enumerate(pairwise(edges))
    ]


def _edges(images: int, settings: ShardSettings) -> list[int]:
    """Say where each shard begins and the last one ends; with a count, sizes differ by one at most."""
    if settings.shard_count is not None:
        count = settings.shard_count
        if count > images:
            raise UserError(
                f"--shard-count is {count:,}, over the {images:,} images: give at most one a shard"
            )
        edges = [number * images // count for number in range(count + 1)]
    else:
        edges = [*range(0, images, settings.shard_size or SHARD_SIZE), images]
    if len(edges) - 1 > MAX_SHARDS:
        raise UserError(f"{len(edges) - 1:,} shards, at most {MAX_SHARDS:,} are possible; raise --shard-size")
    return edges


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
