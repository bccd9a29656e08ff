"""`turbomim shard make`, as people see it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from turbomim.pipeline.pack import PackReport, make_shards
from turbomim.train.options import parse


@dataclass(frozen=True, kw_only=True)
class ShardMake:
    """Pack an ImageFolder tree (a folder a class) or a flat folder of images into WebDataset shards."""

    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Folder of images."""
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Empty or new folder for the shards of one split."""
    name: str | None = None
    """Data set name, first part of every shard's name; the source folder's name if not given."""
    split: str = "train"
    """Second part of every shard's name."""
    shard_size: int = 1000
    """Images a shard."""
    workers: int = len(os.sched_getaffinity(0))
    """Processes; the output is the same for any number."""
    seed: int = 0
    """Seed of the global shuffle."""
    min_side: int = 32
    """Images with a shorter side are left out and named in bad.jsonl, pixels."""


def make(argv: list[str]) -> None:
    """`turbomim shard make SRC DST …`.  Raises UserError."""
    pack(parse(ShardMake, argv, "turbomim shard make"), Console())


def pack(options: ShardMake, console: Console) -> PackReport:
    """Make shards with a bar, and say what was written and what was left out.  Raises UserError."""
    begun = time.perf_counter()
    columns = (
        TextColumn("images"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        report = make_shards(
            options.src,
            options.dst,
            name=options.name,
            split=options.split,
            samples_per_shard=options.shard_size,
            workers=options.workers,
            seed=options.seed,
            min_side=options.min_side,
            progress=progress,
        )
    console.print(
        describe(report, time.perf_counter() - begun), highlight=False, markup=False, soft_wrap=True
    )
    return report


def describe(report: PackReport, seconds: float) -> str:
    """What was written and what was left out, in lines."""
    manifest = report.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    lines = [
        f"{manifest.samples:,} images of {len(manifest.classes):,} classes in {len(manifest.shards):,} "
        "shards, "
        f"{size / 1e6:,.1f} MB, in {report.path} ({manifest.samples / seconds:,.0f} img/s)"
    ]
    if report.bad:
        reasons = f"first: {report.bad[0].path!r}, {report.bad[0].reason}"
        lines.append(f"left out: {len(report.bad):,} images, named in {report.path / 'bad.jsonl'}; {reasons}")
    if report.other_files:
        others = ", ".join(f"{count:,} {extension}" for extension, count in report.other_files.items())
        lines.append(f"not images by their names: {others}")
    if report.empty_classes:
        lines.append(f"classes without an image: {', '.join(map(repr, report.empty_classes[:10]))}")
    return "\n".join(lines)
