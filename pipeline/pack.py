"""Photographs into shards: `make_shards` plans pure jobs, one a shard, and runs them on worker processes.

What is written depends on the photographs, the name, the seed and the sizes asked for, and on nothing else:
no clock, no path outside the source, no worker count.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from turbomim import __version__
from turbomim.pipeline.durable import check_space
from turbomim.pipeline.errors import UserError
from turbomim.pipeline.listings import write_listings
from turbomim.pipeline.photographs import Photograph, Photographs, find_photographs
from turbomim.pipeline.shard_job import BadImage, Progress, ShardJob, ShardResult, job_bytes, run_jobs
from turbomim.pipeline.shards import Manifest, Shard, fingerprint_of

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
MAX_SHARDS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PackReport:
    """What `make_shards` wrote and what it left out.

    bad: image files that were refused.  empty_classes: classes without a sample.  other_files: number of
    files that are no images, by extension.
    """

    path: Path
    manifest: Manifest
    bad: tuple[BadImage, ...]
    empty_classes: tuple[str, ...]
    other_files: dict[str, int]


def make_shards(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    name: str | None = None,
    split: str = "train",
    samples_per_shard: int = 1000,
    workers: int = 1,
    seed: int = 0,
    min_side: int = 32,
    progress: Progress | None = None,
) -> PackReport:
    """Pack the image files of `src` into one split in the new or empty folder `dst`.

    name: of the data set (default: the folder's name).  min_side: pixels; images with a shorter side are left
    out.  workers: processes; 1 works in this one.  The image bytes are copied as they are, in an order
    shuffled over all classes; images that are not fit are listed in bad.jsonl.  When anything fails, what was
    written is removed.  Raises UserError for everything that a user, a file or the disk can cause.
    """
    source, folder = Path(src), Path(dst)
    name = _checked_name(source, name, split)
    _check_numbers(samples_per_shard, workers, seed, min_side)
    _check_folder(source, folder)
    found = find_photographs(source)
    jobs = plan_jobs(found, source, folder, f"{name}-{split}", samples_per_shard, seed, min_side)
    check_space(folder, sum(job_bytes(job) for job in jobs))
    with _new_folder(folder):
        results = run_jobs(jobs, workers, progress)
        shards, bad = _close_gaps(folder, jobs, results), _all_bad(results)
        if not shards:
            first = f"the first is {bad[0].path!r}: {bad[0].reason}"
            raise UserError(f"all {len(bad):,} images in {str(source)!r} are unusable; {first}")
        class_samples = _count_classes(found, results)
        made: dict[str, Any] = {
            "by": f"turbomim {__version__}",
            "source": source.resolve().name,
            "store": "original",
            "seed": seed,
            "samples_per_shard": samples_per_shard,
            "min_side": min_side,
            "images_found": len(found.images),
            "images_bad": len(bad),
            "other_files": found.other_files,
            "class_samples": class_samples,
        }
        manifest = Manifest(
            name=name,
            split=split,
            shards=shards,
            classes=found.classes,
            fingerprint=fingerprint_of(shards),
            made=made,
        )
        write_listings(folder, manifest, bad)
    empty = tuple(c for c, count in zip(found.classes, class_samples, strict=True) if count == 0)
    return PackReport(
        path=folder, manifest=manifest, bad=bad, empty_classes=empty, other_files=found.other_files
    )


def plan_jobs(
    found: Photographs,
    source: Path,
    folder: Path,
    stem: str,
    samples_per_shard: int,
    seed: int,
    min_side: int,
) -> list[ShardJob]:
    """Shuffle the images and cut them into jobs: a pure function of its arguments.

    The order is that of a keyed hash of each path, so it is the same on every machine and library version.
    """
    salt = seed.to_bytes(8, "little")

    def rank(image: Photograph) -> tuple[bytes, bytes]:
        path = os.fsencode(image.path)
        return hashlib.blake2b(path, digest_size=8, key=salt).digest(), path

    images = sorted(found.images, key=rank)
    starts = range(0, len(images), samples_per_shard)
    if len(starts) > MAX_SHARDS:
        raise UserError(f"{len(starts):,} shards, at most {MAX_SHARDS:,} are possible; raise --shard-size")
    return [
        ShardJob(
            source=str(source),
            folder=str(folder),
            stem=f"{stem}-{number:06d}",
            images=tuple(images[start : start + samples_per_shard]),
            min_side=min_side,
        )
        for number, start in enumerate(starts)
    ]


def _close_gaps(folder: Path, jobs: list[ShardJob], results: list[ShardResult]) -> tuple[Shard, ...]:
    """Renumber the shards where a job wrote none, so that the numbers have no holes."""
    shards: list[Shard] = []
    for result in results:
        if result.shard is None:
            continue
        stem = jobs[len(shards)].stem
        old = folder / result.shard.name
        if old.stem != stem:
            for suffix in (".idx", ".tar"):
                os.replace(old.with_suffix(suffix), folder / f"{stem}{suffix}")
        shards.append(replace(result.shard, name=f"{stem}.tar"))
    return tuple(shards)


def _count_classes(found: Photographs, results: list[ShardResult]) -> list[int]:
    by_label = Counter[int]()
    for result in results:
        by_label.update(result.samples_by_label)
    return [by_label[label] for label in range(len(found.classes))]


def _check_folder(source: Path, folder: Path) -> None:
    if folder.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{str(folder)!r} lies in the source {str(source)!r}: choose a folder outside it")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{str(folder)!r} exists and is not empty: empty it, or choose another folder")
    except OSError as error:
        raise UserError(f"cannot use {str(folder)!r}: {error.strerror}; choose another folder") from error


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """Make `folder`, new or empty, for this run; leave it as it was found if the run fails."""
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {str(folder)!r}: {error.strerror}; choose another folder") from error
    try:
        yield
    except BaseException:
        for file in folder.iterdir():
            file.unlink()
        if not existed:
            folder.rmdir()
        raise


def _checked_name(source: Path, name: str | None, split: str) -> str:
    if name is None:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", source.resolve().name).strip("-_") or "images"
    for option, word in (("--name", name), ("--split", split)):
        if not WORD.fullmatch(word):
            raise UserError(
                f"{option} is {word!r}, which goes into file names: give at most 100 letters, digits, "
                "'-' and '_', with a letter or digit first"
            )
    return name


def _check_numbers(samples_per_shard: int, workers: int, seed: int, min_side: int) -> None:
    for option, value in (
        ("--shard-size", samples_per_shard),
        ("--workers", workers),
        ("--min-side", min_side),
    ):
        if value < 1:
            raise UserError(f"{option} is {value}: it must be at least 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed is {seed}: it must be at least 0 and below 2**63")


def _all_bad(results: list[ShardResult]) -> tuple[BadImage, ...]:
    return tuple(sorted((image for result in results for image in result.bad), key=lambda image: image.path))
