"""`turbomim shard inspect`, `index`, `verify` and `cat`, as people see them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from turbomim.pipeline.checking.contact_sheet import write_contact_sheet
from turbomim.pipeline.checking.inspect import format_summary, summarise
from turbomim.pipeline.checking.verify import VerifyReport, verify_split
from turbomim.pipeline.making.index_tars import IndexReport, Progress, index_tars
from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.system.plural import counted
from turbomim.pipeline.tars.split import open_split
from turbomim.pipeline.tars.stored_image import read_named_image
from turbomim.train.settings.flags import parse

# problems on the terminal; a report holds all
SHOWN = 20
# what the loader decodes
DECODED = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True, kw_only=True)
class ShardInspect:
    """Print what is in a split: counts, sizes, classes, resolutions, formats."""

    path: tyro.conf.Positional[Path]
    """Folder of a split, made by `turbomim shard make` or `turbomim shard index`."""
    sample: int = 1000
    """Images whose headers are read for the histogram of resolutions."""
    sheet: Path | None = None
    """PNG file to draw: 48 photographs, evenly spaced over the split."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Make a folder of WebDataset tars from elsewhere readable: write an .idx beside each, and a manifest."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder with the *.tar of one split; links to tars will do.  No tar is changed."""
    name: str | None = None
    """Data set name; the folder's name if not given."""
    split: str | None = None
    """Split's name; if not given the one that the tars' names tell, else train."""
    image: tuple[str, ...] = ()
    """Extensions of the image, as in KEY.EXT; if not given, the sample's one member with an image's."""
    label: str | None = None
    """Extension of the label, a decimal number as text, or none; if not given, cls if every sample has it."""
    keys: Literal["first-dot", "last-dot"] | None = None
    """At which dot of a file's name the sample's key ends; WebDataset's rule is the first.  The names tell if
    not given."""
    workers: int = len(os.sched_getaffinity(0))
    """Threads, a tar each."""
    allow_missing: bool = False
    """Leave out samples without an image, named in bad.jsonl."""
    force: bool = False
    """Replace index files and listings that are already there."""


@dataclass(frozen=True, kw_only=True)
class ShardVerify:
    """Check every byte of a split against manifest, tar headers and index; exit code 1 if it is not whole."""

    path: tyro.conf.Positional[Path]
    """Folder of a split, made by `turbomim shard make` or `turbomim shard index`."""
    images: bool = False
    """Decode every image too."""
    workers: int = len(os.sched_getaffinity(0))
    """Tars at a time: on threads, with --images on processes."""
    report: Path | None = None
    """JSON lines file for all problems; the terminal shows the first 20."""


@dataclass(frozen=True, kw_only=True)
class ShardCat:
    """Write the bytes of one image to standard output."""

    path: tyro.conf.Positional[Path]
    """Folder of a split, made by `turbomim shard make` or `turbomim shard index`."""
    image: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SHARD.tar:KEY")]
    """The image, as `turbomim shard verify` and the loader name it, with or without :OFFSET."""


def inspect(argv: list[str]) -> None:
    """`turbomim shard inspect PATH`: print what is in a split.  Raises UserError."""
    options = parse(ShardInspect, argv, "turbomim shard inspect")
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {str(options.sheet)!a}: must be a file whose name ends in .png")
    split = open_split(options.path)
    sys.stdout.write(format_summary(summarise(split, options.sample)) + "\n")
    if options.sheet is not None:
        drawn = write_contact_sheet(split, options.sheet)
        sys.stdout.write(f"sheet        {counted(drawn, 'image')} in {str(options.sheet)!a}\n")


def index(argv: list[str]) -> None:
    """`turbomim shard index FOLDER`: index foreign tars as a split.  Raises UserError."""
    options = parse(ShardIndex, argv, "turbomim shard index")
    begun = time.perf_counter()
    with _bar() as progress:
        report = index_tars(
            options.path,
            name=options.name,
            split=options.split,
            image=options.image,
            label=options.label,
            keys=options.keys,
            workers=options.workers,
            allow_missing=options.allow_missing,
            force=options.force,
            progress=progress,
        )
    sys.stdout.write(describe_index(report, time.perf_counter() - begun) + "\n")


def verify(argv: list[str]) -> None:
    """`turbomim shard verify PATH`: exit code 1 if anything is wrong.  Raises UserError."""
    options = parse(ShardVerify, argv, "turbomim shard verify")
    begun = time.perf_counter()
    with _bar() as progress:
        report = verify_split(options.path, images=options.images, workers=options.workers, progress=progress)
    if options.report is not None:
        lines = "".join(json.dumps(asdict(problem)) + "\n" for problem in report.problems)
        write_durably(options.report, lines.encode())
    sys.stdout.write(describe_verify(report, time.perf_counter() - begun) + "\n")
    if report.problems:
        raise SystemExit(1)


def cat(argv: list[str]) -> None:
    """`turbomim shard cat PATH SHARD.tar:KEY > FILE`: write one image.  Raises UserError."""
    options = parse(ShardCat, argv, "turbomim shard cat")
    if sys.stdout.isatty():
        raise UsageError("shard cat writes the bytes of an image: send them to a file, with `> image.jpg`")
    sys.stdout.buffer.write(read_named_image(options.path, options.image))


def describe_index(report: IndexReport, seconds: float) -> str:
    """What was indexed, which members are read, what was left out, in lines."""
    manifest = report.manifest
    indexed = manifest.made["indexed"]
    labels = f"labels {indexed['label']}" if indexed["label"] else "no labels"
    lines = [
        f"{counted(manifest.samples, 'sample')} in {counted(len(manifest.shards), 'shard')}, "
        f"{manifest.bytes / 1e6:,.1f} MB, indexed as {manifest.name}-{manifest.split} in "
        f"{str(report.path)!a} ({manifest.samples / seconds:,.0f} img/s)",
        f"images {' '.join(indexed['image'])}, {labels}; `turbomim shard verify --images` decodes them all",
    ]
    lines += [report.told] if report.told else []
    if report.unread:
        shown = ", ".join(f"{count:,} {extension}" for extension, count in report.unread.most_common(8))
        more = f" and {counted(len(report.unread) - 8, 'other')}" if len(report.unread) > 8 else ""
        things = counted(report.unread.total(), "image or label", "images or labels")
        lines.append(f"in the samples, not read: {things}: {shown}{more}")
    if report.left_out:
        lines.append(f"left out: {counted(report.left_out, 'sample')} without an image, named in bad.jsonl")
    if report.others:
        lines.append(f"part of no sample: {counted(report.others, 'file')}, hidden or without an extension")
    foreign = [extension for extension in indexed["image"] if extension.rpartition(".")[2] not in DECODED]
    if foreign:
        lines.append(f"note: {' '.join(foreign)}: the loader decodes JPEG, PNG and WebP only, by the content")
    return "\n".join(lines)


def describe_verify(report: VerifyReport, seconds: float) -> str:
    """The first problems, a line each, and one closing sentence with counts."""
    manifest, problems = report.manifest, report.problems
    lines = [str(problem) for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"… and {len(problems) - SHOWN:,} more: --report FILE.jsonl writes all")
    verdict = counted(len(problems), "problem") if problems else "whole"
    decoded = f", {counted(report.images, 'image')} decoded" if report.images else ""
    lines.append(
        f"{verdict}: {counted(len(manifest.shards), 'shard')}, {counted(manifest.samples, 'sample')}, "
        f"{manifest.bytes / 1e6:,.1f} MB checked{decoded} in {seconds:,.1f} s "
        f"({manifest.samples / seconds:,.0f} img/s)"
    )
    return "\n".join(lines)


@contextmanager
def _bar() -> Iterator[Progress]:
    """Show a bar of bytes with img/s and the time left, on a terminal only."""
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rate]:,.0f} img/s"),
        TimeRemainingColumn(),
    )
    begun = time.perf_counter()
    images = 0
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, rate=0.0)

        def progress(some_bytes: int, some_images: int, all_bytes: int) -> None:
            nonlocal images
            images += some_images
            rate = images / (time.perf_counter() - begun)
            bar.update(task, advance=some_bytes, total=all_bytes, rate=rate)

        yield progress
