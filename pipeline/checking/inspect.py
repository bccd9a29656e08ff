"""What is in a split: counts, classes, sizes and formats, from its manifest, index and some image headers."""

import io
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from turbomim.pipeline.decoding.header import ALTERED, check_header
from turbomim.pipeline.making.list_rows import DELIMITERS
from turbomim.pipeline.system.errors import at_least_one
from turbomim.pipeline.system.executors import on_threads
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.index import Members
from turbomim.pipeline.tars.listings import BadImage, read_bad
from turbomim.pipeline.tars.manifest import Manifest
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Store

# upper edges of the histograms' bins. Bytes of an image
BYTE_EDGES = (10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000)
# pixels of the short side, around the usual training sizes
EDGES = (64, 128, 192, 224, 256, 384, 512, 768, 1024)
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BAR = 30
FORMATS = ("JPEG", "PNG", "WEBP", "PPM", "BMP", "TIFF")
TOP_CLASSES = 5
FIRST_BAD = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSummary:
    """A split in numbers. Fields on sides and formats are of the `sampled` images whose header was read.

    classes: (name, samples), most samples first; samples is None where the manifest does not count them.
    byte_histogram: all images by their bytes, below each of `BYTE_EDGES`, then the rest.  short_side,
    long_side: pixels at `QUANTILES`.  histogram: images by short side, below each of `EDGES`, then the rest.
    unreadable: sampled images without a readable header.  altered: sampled images of each of `ALTERED`.
    bad: what was left out.
    """

    path: str
    manifest: Manifest
    image_bytes_mean: float
    byte_histogram: tuple[int, ...]
    classes: tuple[tuple[str, int | None], ...]
    sampled: int
    unreadable: int
    short_side: tuple[int, ...]
    long_side: tuple[int, ...]
    histogram: tuple[int, ...]
    formats: dict[str, int]
    altered: dict[str, int]
    bad: tuple[BadImage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """Of an image its format as Pillow calls it, (width, height) in pixels, and what of `ALTERED` it is."""

    form: str
    size: tuple[int, int]
    altered: frozenset[str]


def summarise(split: Split, sample: int = 1000) -> SplitSummary:
    """Summarise a split; at most `sample` image headers are read, evenly spaced over all samples.

    Raises UserError if `sample` is below 1, or bad.jsonl is not ours.
    """
    at_least_one("--sample", sample)
    manifest, index = split.manifest, split.index
    ids = np.unique(np.linspace(0, len(index) - 1, min(sample, len(index))).astype(np.int64))
    with warnings.catch_warnings():
        # of large images; what is large here is in the numbers
        warnings.simplefilter("ignore")
        headers = on_threads(partial(_read_header, split), ids.tolist())
    readable = [header for header in headers if header is not None]
    sides = np.array([sorted(header.size) for header in readable], np.int64).reshape(-1, 2)
    counts = manifest.made.get("class_samples") or [None] * len(manifest.classes)
    classes = sorted(zip(manifest.classes, counts, strict=True), key=lambda item: -(item[1] or 0))
    return SplitSummary(
        path=str(split.place),
        manifest=manifest,
        image_bytes_mean=float(index.image_bytes_N.mean()),
        byte_histogram=_histogram(index.image_bytes_N, BYTE_EDGES),
        classes=tuple(classes),
        sampled=len(ids),
        unreadable=len(headers) - len(readable),
        short_side=_quantiles(sides[:, 0]),
        long_side=_quantiles(sides[:, 1]),
        histogram=_histogram(sides[:, 0], EDGES),
        formats=dict(Counter(header.form for header in readable).most_common()),
        altered=dict(Counter(what for header in readable for what in sorted(header.altered))),
        bad=read_bad(split.place),
    )


def format_summary(summary: SplitSummary) -> str:
    """Write a summary as plain text of some thirty lines, safe to print whatever the names in it."""
    s, manifest, store = summary, summary.manifest, Store.of(summary.manifest.made)
    made = ", ".join(f"{name} {value}" for name, value in store.to_json().items() if name != "kind")
    shards = counted(len(manifest.shards), "shard")
    lines = [
        f"{manifest.name}-{manifest.split}  {s.path!r}",
        f"samples      {manifest.samples:,} in {shards}, {manifest.bytes:,} bytes",
        f"store        {store.kind}{': ' * bool(made)}{made}",
        f"classes      {_class_line(s)}",
        f"fingerprint  {manifest.fingerprint}",
        f"left out     {counted(len(s.bad), 'image')}{' (bad.jsonl), first:' if s.bad else ''}",
    ]
    lines += [f"             {image.path!r}: {repr(image.reason)[1:-1]}" for image in s.bad[:FIRST_BAD]]
    lines += [f"image bytes, all images (mean {s.image_bytes_mean:,.0f}):"]
    lines += _bars([f"{edge // 1000} kB" for edge in BYTE_EDGES], s.byte_histogram)
    lines += [f"headers      {s.sampled:,} read, evenly spaced; {s.unreadable:,} unreadable"]
    if not s.formats:
        return "\n".join(lines)
    percent = "".join(f"{f'{100 * q:g} %':>8}" for q in QUANTILES)
    lines += [
        f"formats      {', '.join(f'{form} {count:,}' for form, count in s.formats.items())}",
        *(f"in training  {line}" for line in _altered_lines(s)),
        f"pixels       {percent}",
        f"short side   {''.join(f'{side:>8}' for side in s.short_side)}",
        f"long side    {''.join(f'{side:>8}' for side in s.long_side)}",
        "short side in pixels, images read:",
        *_bars([str(edge) for edge in EDGES], s.histogram),
    ]
    return "\n".join(lines)


def _class_line(s: SplitSummary) -> str:
    label = Members.of(s.manifest.made).label if s.classes or s.manifest.foreign else None
    if label is None:
        others = s.manifest.made.get("other_files") or {}
        lists = ", ".join(f"{others[ending]:,} {ending}" for ending in DELIMITERS if ending in others)
        took = "; a list of labels is taken in place of the folder" if lists else ""
        return f"no labels{f' (beside the images: {lists}{took})' * bool(lists)}"
    if not s.classes:
        return f"not named, labels from .{label}"
    shown = [
        repr(name)[1:-1] + (f" {count:,}" if count is not None else "")
        for name, count in s.classes[:TOP_CLASSES]
    ]
    return f"{len(s.classes):,}: {', '.join(shown)}{', …' * (len(s.classes) > TOP_CLASSES)}"


def _altered_lines(s: SplitSummary) -> list[str]:
    """What training sees otherwise than files have it: of all images if making counted, else the sampled."""
    made = s.manifest.made.get("altered")
    if made:
        counts = {what: (some["images"], f" (first: {some['first']!r})") for what, some in made.items()}
    else:
        counts = {what: (count, f" (of {s.sampled:,} read)") for what, count in s.altered.items()}
    return [
        f"{counted(count, 'image')} {ALTERED.get(what, what)}{more}" for what, (count, more) in counts.items()
    ]


def _bars(edges: list[str], counts: tuple[int, ...]) -> list[str]:
    labels = [f"under {edges[0]}", *(f"{low} up" for low in edges)]
    return [
        f"{label:>13}  {'#' * round(BAR * count / max(1, *counts)):<{BAR}} {count:,}"
        for label, count in zip(labels, counts, strict=True)
    ]


def _histogram(values_N: NDArray[np.integer[Any]], edges: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(np.bincount(np.digitize(values_N, edges), minlength=len(edges) + 1).tolist())


def _quantiles(side_N: NDArray[np.int64]) -> tuple[int, ...]:
    if not len(side_N):
        return ()
    return tuple(int(value) for value in np.quantile(side_N, QUANTILES, method="nearest"))


def _read_header(split: Split, sample_id: int) -> _Header | None:
    """Read the header of an image in its tar; None if it has no readable one."""
    index = split.index
    offset, size = int(index.image_offset_N[sample_id]), int(index.image_bytes_N[sample_id])
    content = bytearray(size)
    split.read_into(int(index.shard_N[sample_id]), memoryview(content), offset)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            # Pillow calls a JPEG with more pictures behind the first MPO
            form = "JPEG" if image.format == "MPO" else str(image.format)
            return _Header(form=form, size=image.size, altered=_altered(content))
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None


def _altered(content: bytearray) -> frozenset[str]:
    """What of `ALTERED` an image is; nothing for what the loader does not decode."""
    try:
        return check_header(np.frombuffer(content, np.uint8)).altered
    except ValueError:
        return frozenset()
