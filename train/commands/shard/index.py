"""`turbomim shard index FOLDER`: foreign tars as a split."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from turbomim.pipeline.making.index_tars import IndexReport, IndexSettings, index_tars
from turbomim.pipeline.making.photographs import EXTENSIONS
from turbomim.pipeline.system.words import counted, sized
from turbomim.train.machine.processor import cores
from turbomim.train.settings.flags import parse
from turbomim.train.terminal.progress import byte_bar


@dataclass(frozen=True, kw_only=True)
class ShardIndex(IndexSettings):
    """Make a folder of WebDataset tars from elsewhere readable: write an .idx beside each, and a manifest."""

    path: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            metavar="FOLDER",
            help="Folder with the *.tar of one split; links to tars will do.  Or one of a store, "
            "s3://BUCKET/FOLDER, gs://, az:// or hf://: headers and labels alone are read.  No tar changes.",
        ),
    ]
    workers: int = cores()
    """Threads, a tar each; 64 in a store."""


def shard_index_command(argv: list[str]) -> None:
    """`turbomim shard index FOLDER`: index foreign tars as a split.  Raises UserError."""
    options = parse(ShardIndex, argv, "turbomim shard index")
    begun = time.perf_counter()
    with byte_bar() as progress:
        report = index_tars(options.path, options, progress=progress)
    sys.stdout.write(describe_index(report, time.perf_counter() - begun) + "\n")


def describe_index(report: IndexReport, seconds: float) -> str:
    """What was indexed, which members are read, what was left out, in lines."""
    manifest = report.manifest
    indexed = manifest.made["indexed"]
    labels = f"labels {indexed['label']}" if indexed["label"] else "no labels"
    lines = [
        f"{counted(manifest.samples, 'sample')} in {counted(len(manifest.shards), 'shard')}, "
        f"{sized(manifest.bytes)}, indexed as {manifest.name}-{manifest.split} in "
        f"{str(report.place)!r} ({manifest.samples / seconds:,.0f} img/s)",
        f"images {' '.join(indexed['image'])}, {labels}; `turbomim shard verify --images` decodes them all",
    ]
    if report.requests:
        read = f"{counted(report.requests, 'request')}, {sized(report.read)}"
        lines.append(f"headers and labels read: {read} of {sized(manifest.bytes)}")
    lines += [report.note] if report.note else []
    if report.unread:
        shown = ", ".join(f"{count:,} {extension}" for extension, count in report.unread.most_common(8))
        more = f" and {counted(len(report.unread) - 8, 'other')}" if len(report.unread) > 8 else ""
        things = counted(report.unread.total(), "image or label", "images or labels")
        lines.append(f"in the samples, not read: {things}: {shown}{more}")
    if report.left_out:
        lines.append(f"left out: {counted(report.left_out, 'sample')} without an image, named in bad.jsonl")
    if report.others:
        lines.append(f"part of no sample: {counted(report.others, 'file')}, hidden or without an extension")
    foreign = [extension for extension in indexed["image"] if not f".{extension}".endswith(EXTENSIONS)]
    if foreign:
        lines.append(f"note: {' '.join(foreign)}: the loader decodes JPEG, PNG and WebP only, by the content")
    return "\n".join(lines)
