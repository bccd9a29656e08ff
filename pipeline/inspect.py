"""What is in a split: counts, classes, sizes and formats, from the manifest and some image headers."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ContainerIO import ContainerIO

from turbomim.pipeline.shards import BAD, Split, open_split

# pixels of the short side: upper edges of the histogram's bins, around the usual training sizes
EDGES = (64, 128, 192, 224, 256, 384, 512, 768, 1024)
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BAR = 30
TOP_CLASSES = 5
FIRST_BAD = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSummary:
    """A split in numbers. Fields on sides and formats are of the `sampled` images whose header was read.

    classes: (name, samples), most samples first; samples is None where the manifest does not count them.
    short_side, long_side: pixels at `QUANTILES`.  histogram: images by short side, below each of `EDGES`,
    then the rest.  unreadable: sampled images without a readable header.  first_bad: (path, reason).
    """

    path: Path
    name: str
    split: str
    samples: int
    shards: int
    shard_bytes: int
    image_bytes_mean: float
    classes: tuple[tuple[str, int | None], ...]
    sampled: int
    unreadable: int
    short_side: tuple[int, ...]
    long_side: tuple[int, ...]
    histogram: tuple[int, ...]
    formats: dict[str, int]
    bad: int
    first_bad: tuple[tuple[str, str], ...]
    fingerprint: str


def inspect_split(path: Path | str, sample: int = 1000) -> SplitSummary:
    """Summarise a split; at most `sample` image headers are read, evenly spaced over all samples.

    Raises UserError as `open_split` does.
    """
    split = open_split(path)
    manifest, index = split.manifest, split.index
    ids = np.unique(np.linspace(0, len(index) - 1, max(1, min(sample, len(index)))).astype(np.int64))
    headers = [_read_header(split, int(sample_id)) for sample_id in ids]
    readable = [header for header in headers if header is not None]
    sides = np.array([sorted(size) for _, size in readable], np.int64).reshape(-1, 2)
    bad = _read_bad(split.path)
    counts = manifest.made.get("class_samples") or [None] * len(manifest.classes)
    classes = sorted(zip(manifest.classes, counts, strict=True), key=lambda item: -(item[1] or 0))
    return SplitSummary(
        path=split.path,
        name=manifest.name,
        split=manifest.split,
        samples=manifest.samples,
        shards=len(manifest.shards),
        shard_bytes=manifest.bytes,
        image_bytes_mean=float(index.image_bytes_N.mean()),
        classes=tuple(classes),
        sampled=len(ids),
        unreadable=len(headers) - len(readable),
        short_side=_quantiles(sides[:, 0]),
        long_side=_quantiles(sides[:, 1]),
        histogram=tuple(np.bincount(np.digitize(sides[:, 0], EDGES), minlength=len(EDGES) + 1).tolist()),
        formats=dict(Counter(form for form, _ in readable).most_common()),
        bad=len(bad),
        first_bad=tuple(bad[:FIRST_BAD]),
        fingerprint=manifest.fingerprint,
    )


def format_summary(summary: SplitSummary) -> str:
    """Write a summary as plain text of some twenty lines, safe to print whatever the names in it."""
    s = summary
    lines = [
        f"{s.name}-{s.split}  {str(s.path)!a}",
        f"samples      {s.samples:,} in {s.shards:,} shards, {s.shard_bytes:,} bytes",
        f"images       {s.image_bytes_mean:,.0f} bytes each (mean)",
        f"classes      {len(s.classes):,}: {_class_line(s)}",
        f"fingerprint  {s.fingerprint}",
        f"left out     {s.bad:,} image files{' (bad.jsonl), first:' if s.bad else ''}",
    ]
    lines += [f"             {path!a}: {ascii(reason)[1:-1]}" for path, reason in s.first_bad]
    lines += [f"headers      {s.sampled:,} read, evenly spaced; {s.unreadable:,} unreadable"]
    if not s.formats:
        return "\n".join(lines)
    percent = "".join(f"{f'{100 * q:g} %':>8}" for q in QUANTILES)
    lines += [
        f"formats      {', '.join(f'{form} {count:,}' for form, count in s.formats.items())}",
        f"pixels       {percent}",
        f"short side   {''.join(f'{side:>8}' for side in s.short_side)}",
        f"long side    {''.join(f'{side:>8}' for side in s.long_side)}",
        "short side, images:",
    ]
    for label, count in zip(_bin_labels(), s.histogram, strict=True):
        lines.append(f"{label:>11}  {'#' * round(BAR * count / max(s.histogram)):<{BAR}} {count:,}")
    return "\n".join(lines)


def _class_line(s: SplitSummary) -> str:
    shown = [
        ascii(name)[1:-1] + (f" {count:,}" if count is not None else "")
        for name, count in s.classes[:TOP_CLASSES]
    ]
    return ", ".join(shown) + (", …" if len(s.classes) > TOP_CLASSES else "")


def _bin_labels() -> list[str]:
    between = [f"{low}-{high - 1}" for low, high in pairwise(EDGES)]
    return [f"under {EDGES[0]}", *between, f"{EDGES[-1]} up"]


def _quantiles(side_N: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> tuple[int, ...]:
    if not len(side_N):
        return ()
    return tuple(int(value) for value in np.quantile(side_N, QUANTILES, method="nearest"))


def _read_header(split: Split, sample_id: int) -> tuple[str, tuple[int, int]] | None:
    """Read (format, (width, height)) of an image in its tar, or None if it has no readable header."""
    index = split.index
    offset, size = int(index.image_offset_N[sample_id]), int(index.image_bytes_N[sample_id])
    with open(split.shard_path(int(index.shard_N[sample_id])), "rb") as tar:
        try:
            with Image.open(ContainerIO(tar, offset, size), formats=("JPEG", "PNG", "WEBP")) as image:
                # Pillow calls a JPEG with more pictures behind the first MPO
                return "JPEG" if image.format == "MPO" else str(image.format), image.size
        except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            return None


def _read_bad(folder: Path) -> list[tuple[str, str]]:
    try:
        lines = (folder / BAD).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    entries = [json.loads(line) for line in lines]
    return [(str(entry["path"]), str(entry["reason"])) for entry in entries]
