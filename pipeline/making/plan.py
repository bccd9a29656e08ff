"""What a run of `make_shards` is to do: the settings checked, the photographs shuffled and cut into jobs."""

import hashlib
import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from turbomim import __version__
from turbomim.pipeline.making.list_rows import DELIMITERS
from turbomim.pipeline.making.photo_list import read_list
from turbomim.pipeline.making.photographs import Photograph, Photographs, find_photographs
from turbomim.pipeline.making.shard_job import Check, OnBad, ShardJob
from turbomim.pipeline.stream.seeds import check_seed
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.tars.store import KINDS, RESAMPLINGS, SUBSAMPLINGS, Kind, Store

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
MAX_SHARDS = 1_000_000
SHARD_SIZE = 1000

# what each kind of store has, and nothing else
STORE_FIELDS: dict[Kind, tuple[str, ...]] = {
    "original": (),
    "resized": ("short_side", "resampling", "quality", "subsampling"),
    "raw": ("short_side", "resampling"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What decides the bytes of the shards, besides the photographs.

    shard_count: shards of equal size, instead of samples_per_shard.  min_side: pixels.  Raises UserError, or
    UsageError for settings that exclude each other.
    """

    name: str
    split: str
    samples_per_shard: int | None
    shard_count: int | None
    seed: int
    min_side: int
    check: Check
    store: Store

    def __post_init__(self) -> None:
        for option, word in (("--name", self.name), ("--split", self.split)):
            if not WORD.fullmatch(word):
                raise UserError(
                    f"{option} is {word!r}, which goes into file names: give at most 100 letters, digits, "
                    "'-' and '_', with a letter or digit first"
                )
        if self.samples_per_shard is not None and self.shard_count is not None:
            raise UsageError("--shard-size and --shard-count exclude each other: give one")
        store = self.store
        at_least_one("--shard-size", self.samples_per_shard)
        at_least_one("--shard-count", self.shard_count)
        at_least_one("--min-side", self.min_side)
        at_least_one("--short-side", store.short_side)
        check_seed("--seed", self.seed)
        if store.quality is not None and not 1 <= store.quality <= 100:
            raise UserError(f"--quality is {store.quality}: it must be 1 to 100")
        for option, value, choices in (
            ("--check", self.check, ("header", "full")),
            ("--store", store.kind, KINDS),
            ("--resampling", store.resampling, (None, *RESAMPLINGS)),
            ("--subsampling", store.subsampling, (None, *SUBSAMPLINGS)),
        ):
            if value not in choices:
                raise UsageError(f"{option} is {value!r}: give {' or '.join(filter(None, choices))}")
        given = tuple(store.to_json())[1:]
        if given != STORE_FIELDS[store.kind]:
            wanted = ", ".join(STORE_FIELDS[store.kind]) or "no settings"
            raise UsageError(
                f"a store of kind {store.kind!r} has {wanted}, not {', '.join(given) or 'nothing'}"
            )


def at_least_one(option: str, value: int | None) -> None:
    """Raise UserError if a number is below 1."""
    if value is not None and value < 1:
        raise UserError(f"{option} is {value}: it must be at least 1")


def find_source(
    source: Path, root: Path | None = None, columns: str | None = None, skip: str | None = None
) -> Photographs:
    """List the photographs of a folder, or of a .csv, .tsv or .txt list.

    root: what a list's paths start from; columns: what its columns are called, path=NAME,label=NAME.  skip:
    patterns of names below a folder that are passed over too.
    """
    if source.suffix.lower() in DELIMITERS and not source.is_dir():
        if skip is not None:
            raise UsageError("--skip belongs to a folder: leave it out for a list")
        return read_list(source, root, columns)
    for option, value in (("--root", root), ("--columns", columns)):
        if value is not None:
            raise UsageError(f"{option} belongs to a .csv, .tsv or .txt list: leave it out for a folder")
    return find_photographs(source, skip)


def default_name(source: Path) -> str:
    """Make the source's name fit for file names."""
    resolved = source.resolve()
    name = resolved.name if resolved.is_dir() else resolved.stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:100] or "images"


def describe_plan(settings: Settings, source: Path, found: Photographs) -> dict[str, Any]:
    """Say, for the manifest, how the shards are made: equal plans give equal bytes, on any machine.

    source_images_sha256: over path, label and size of each image, the classes, and what was refused.
    """
    lines = [f"{image.path}\0{image.label}\0{image.bytes}\n" for image in found.images]
    lines += [*found.classes, *(f"{bad.path}\0{bad.reason}\n" for bad in found.refused)]
    plan: dict[str, Any] = {
        "by": f"turbomim {__version__}",
        "source": source.resolve().name,
        "store": settings.store.to_json(),
        "seed": settings.seed,
        "samples_per_shard": settings.samples_per_shard,
        "shard_count": settings.shard_count,
        "min_side": settings.min_side,
        "check": settings.check,
        "source_images_sha256": _digest(lines),
    }
    if settings.store.kind != "original":
        # DALI takes a second to import
        from turbomim.pipeline.making.transcode import encoders

        plan["encoders"] = encoders(settings.store)
    return plan


def source_times(found: Photographs) -> str:
    """Identify when the source files were last changed."""
    return _digest([f"{image.path}\0{image.mtime_ns}\n" for image in found.images])


def plan_jobs(
    found: Photographs, folder: Path, settings: Settings, on_bad: OnBad = "quarantine"
) -> list[ShardJob]:
    """Shuffle the images and cut them into jobs that write in `folder`: a pure function of its arguments.

    The order is that of a keyed hash of each path, so it is the same on every machine and library version.
    """
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
            root=os.path.abspath(found.root),
            folder=os.path.abspath(folder),
            stem=f"{settings.name}-{settings.split}-{number:06d}",
            images=tuple(images[first:last]),
            min_side=settings.min_side,
            check=settings.check,
            on_bad=on_bad,
            store=settings.store,
        )
        for number, (first, last) in enumerate(pairwise(edges))
    ]


def _edges(images: int, settings: Settings) -> list[int]:
    """Say where each shard begins and the last one ends; with a count, sizes differ by one at most."""
    if settings.shard_count is not None:
        count = settings.shard_count
        if count > images:
            raise UserError(
                f"--shard-count is {count:,}, over the {images:,} images: give at most one a shard"
            )
        edges = [number * images // count for number in range(count + 1)]
    else:
        edges = [*range(0, images, settings.samples_per_shard or SHARD_SIZE), images]
    if len(edges) - 1 > MAX_SHARDS:
        raise UserError(f"{len(edges) - 1:,} shards, at most {MAX_SHARDS:,} are possible; raise --shard-size")
    return edges


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
