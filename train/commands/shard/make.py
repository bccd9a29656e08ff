"""`turbomim shard make SRC DST`: images to WebDataset shards."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from turbomim.pipeline.making.pack import PackReport, make_shards
from turbomim.pipeline.making.photographs import describe_others
from turbomim.pipeline.making.plan import STORE_FIELDS
from turbomim.pipeline.system.executors import open_executor
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.manifest import MAKING
from turbomim.pipeline.tars.store import Interpolation, Kind, Store, Subsampling
from turbomim.train.settings.flags import parse, python_bools
from turbomim.train.terminal.progress import image_bar
from turbomim.train.terminal.streams import print_plain

# of a store's settings, where they are not given
USUAL = {"short_side": 224, "resampling": "bicubic", "quality": 95, "subsampling": "4:4:4"}


@dataclass(frozen=True, kw_only=True)
class ShardMake:
    """Pack images into WebDataset shards.

    The same command resumes a run that was killed or failed, and does nothing after one that is done.
    """

    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Folder with a folder of images a class, or of images alone (no labels), or a .csv, .tsv or .txt list of
    paths and labels."""
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Folder for the shards of one split: new, empty, or of an unfinished run."""
    name: str | None = None
    """Data set name, first part of every shard's name; the source's name if not given."""
    split: str = "train"
    """Second part of every shard's name."""
    root: Path | None = None
    """What the paths of a list start from; the list's folder if not given."""
    columns: str | None = None
    """What a list's columns are called, path=NAME,label=NAME; label= for no labels.  By their usual names if
    not given."""
    skip: str | None = None
    """Names of files and folders in SRC to pass over, PATTERN[,PATTERN], beside hidden ones, @eaDir, __MACOSX
    and their like."""
    shard_size: int | None = None
    """Images a shard; 1000 if neither this nor --shard-count is given."""
    shard_count: int | None = None
    """Shards in all, of equal size."""
    store: Kind = "original"
    """What is kept: original bytes, or images with the short side resized, JPEG (resized) or pixels (raw)."""
    short_side: int | None = None
    """Of resized and raw images, pixels: the size that training crops to; 224 if not given."""
    resampling: Interpolation | None = None
    """Filter of the resize, antialiased: the one that the recipe names; bicubic if not given."""
    quality: int | None = None
    """Of resized JPEGs, 1 to 100; 95 if not given."""
    subsampling: Subsampling | None = None
    """Of the colours of resized JPEGs: 4:4:4 keeps them all, 4:2:0 a quarter; 4:4:4 if not given."""
    check: Literal["header", "full"] = "header"
    """Whether every image's header is checked, or every pixel is decoded."""
    on_bad: Literal["quarantine", "fail"] = "quarantine"
    """What to do with an image that is not fit: name it in bad.jsonl, or stop."""
    min_side: int = 32
    """Images with a shorter side are not fit, pixels."""
    seed: int = 0
    """Seed of the global shuffle."""
    workers: int = len(os.sched_getaffinity(0))
    """Processes; the output is the same for any number."""
    executor: str = "local"
    """Where the work is done: local, or dask:ADDRESS of a Dask scheduler whose workers see SRC and DST."""
    lock: Annotated[bool, tyro.conf.FlagConversionOff] = True
    """Keep a second process out of DST; false where its file system has no locks."""


def shard_make_command(argv: list[str]) -> None:
    """`turbomim shard make SRC DST …`.  Raises UserError."""
    pack(parse(ShardMake, python_bools(argv), "turbomim shard make"), Console())


def pack(options: ShardMake, console: Console) -> PackReport:
    """Make shards, show how far it is, and say what was written and left out.  Raises UserError."""
    begun = time.perf_counter()
    with image_bar(console) as bar, open_executor(options.executor) as executor:
        try:
            report = make_shards(
                options.src,
                options.dst,
                name=options.name,
                split=options.split,
                root=options.root,
                columns=options.columns,
                skip=options.skip,
                samples_per_shard=options.shard_size,
                shard_count=options.shard_count,
                store=store_of(options),
                check=options.check,
                on_bad=options.on_bad,
                min_side=options.min_side,
                seed=options.seed,
                workers=options.workers,
                executor=executor,
                progress=bar.show,
                lock=options.lock,
            )
        except KeyboardInterrupt:
            if (options.dst / MAKING).exists():
                print_plain(console, "finished shards are kept: the same command resumes")
            raise
    print_plain(console, describe(report, time.perf_counter() - begun))
    return report


def store_of(options: ShardMake) -> Store:
    """The store that the flags describe; one that its kind does not have is `make_shards`' to refuse."""
    values: dict[str, Any] = {name: USUAL[name] for name in STORE_FIELDS[options.store]}
    values |= {name: value for name in USUAL if (value := getattr(options, name)) is not None}
    return Store(kind=options.store, **values)


def describe(report: PackReport, seconds: float) -> str:
    """What was written and what was left out, in lines."""
    manifest = report.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    classes = counted(len(manifest.classes), "class", "classes") if manifest.classes else "no classes"
    what = (
        f"{counted(manifest.samples, 'image')} of {classes} in "
        f"{counted(len(manifest.shards), 'shard')}, {size / 1e6:,.1f} MB, in {report.path}"
    )
    if report.found_whole:
        lines = [f"already whole, nothing to do: {what}"]
    elif report.kept:
        lines = [f"{what} ({counted(report.kept, 'shard')} kept from an earlier run)"]
    else:
        lines = [f"{what} ({manifest.samples / seconds:,.0f} img/s)"]
    lines += report.told
    if report.bad:
        reasons = f"first: {report.bad[0].path!r}, {report.bad[0].reason}"
        left_out = counted(len(report.bad), "image")
        lines.append(f"left out: {left_out}, named in {report.path / 'bad.jsonl'}; {reasons}")
    if few := manifest.made.get("few_levels"):
        path, levels = few["first"]
        lines.append(
            f"{counted(few['images'], 'image')} of 16 bits with hardly any contrast in 8 (first: {path!r}, "
            f"{levels}): scale their values to all 16 bits before, or they train as nearly one colour"
        )
    if report.other_files:
        lines.append(f"not images by their names: {describe_others(report.other_files, most=20)}")
    if report.empty_classes:
        more = f" and {len(report.empty_classes) - 10:,} others" if len(report.empty_classes) > 10 else ""
        lines.append(f"classes without an image: {', '.join(map(repr, report.empty_classes[:10]))}{more}")
    return "\n".join(lines)
