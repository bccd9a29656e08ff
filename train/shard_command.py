"""`turbomim shard make` and `turbomim shard inspect`, as people see them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from turbomim.pipeline.inspect import format_summary, inspect_split
from turbomim.pipeline.pack import PackReport, make_shards


def make(
    src: Path,
    dst: Path,
    *,
    name: str | None,
    split: str,
    samples_per_shard: int,
    workers: int,
    seed: int,
    min_side: int,
    console: Console,
) -> PackReport:
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
            src,
            dst,
            name=name,
            split=split,
            samples_per_shard=samples_per_shard,
            workers=workers,
            seed=seed,
            min_side=min_side,
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


def inspect(path: Path, sample: int) -> None:
    """Print what is in a split.  Raises UserError."""
    sys.stdout.write(format_summary(inspect_split(path, sample)) + "\n")
