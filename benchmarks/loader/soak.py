"""Does a loader that runs for long grow?

    python -m turbomim.benchmarks.loader.soak --data SPLIT --minutes 10

Runs the whole loader over the split again and again, made anew every so often, and looks at this process:
resident memory, what of the C library's heaps is in use, open files, threads, children, and the entries of
/dev/shm.  Photographs of all sizes leave gaps in the heaps, which take minutes to reach their size: before
the first look it warms up.  Prints a JSON line, writes docs/images/soak.png, and exits 1 if anything grew.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from turbomim.benchmarks.timing import machine
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
from turbomim.pipeline.stream.turns import BatchCut, SampleStream
from turbomim.pipeline.tars.split import Split, open_split

BATCH = 32
# MB and share that memory may differ by: allocators and DALI's pools breathe
SLACK_MB, SLACK = 64.0, 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the process holds at a time. seconds: since the start; rss_mb: resident memory; heap_mb: in use of
    glibc's heaps, without their gaps.
    """

    seconds: float
    rss_mb: float
    heap_mb: float
    files: int
    threads: int
    children: int
    shm: int


MEMORY = ("rss_mb", "heap_mb")
COUNTS = ("files", "threads", "children", "shm")


class _MallInfo2(ctypes.Structure):
    """glibc's struct mallinfo2: ten numbers, of which hblkhd is bytes in mapped blocks, uordblks in use."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def heap_in_use() -> int:
    """Bytes that malloc has given out and not got back; 0 without glibc."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _MallInfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def look(begun: float) -> Look:
    """Read /proc and /dev/shm."""
    tasks = list(Path("/proc/self/task").iterdir())
    return Look(
        seconds=time.monotonic() - begun,
        rss_mb=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6,
        heap_mb=heap_in_use() / 1e6,
        files=len(os.listdir("/proc/self/fd")),
        threads=len(tasks),
        children=sum(len((task / "children").read_text().split()) for task in tasks),
        shm=len(os.listdir("/dev/shm")),
    )


def batches(split: Split, size: int, lifetime_s: float) -> Iterator[int]:
    """Yield the position after each batch, for ever; after `lifetime_s` another loader goes on."""
    position = 0
    while True:
        stream = SampleStream(seed=0, cut=BatchCut(global_batch=BATCH, micro_batch=BATCH, start=position))
        with Loader(split, Crop(size=size), stream, LoaderSpeed(threads=2), BadSampleLimits()) as loader:
            end = time.monotonic() + lifetime_s
            for batch in loader:
                position = batch.position + BATCH
                yield position
                if time.monotonic() > end:
                    break


def soak(
    split: Split, *, minutes: float, warm_minutes: float, size: int, every_s: float, lifetime_s: float
) -> tuple[list[Look], int]:
    """Load for so long after the warm-up; looks `every_s`, and samples served."""
    begun = time.monotonic()
    warm = begun + 60 * warm_minutes
    end = warm + 60 * minutes
    looks, due = list[Look](), warm
    for served in batches(split, size, lifetime_s):
        now = time.monotonic()
        if now >= due:
            looks.append(look(begun))
            due += every_s
        if now >= end:
            return looks, served
    raise AssertionError("the stream is endless")


def judge(looks: list[Look]) -> dict[str, Any]:
    """First and last quarter's medians, slopes an hour, and what grew."""
    quarter = max(1, len(looks) // 4)
    hours = np.array([look.seconds for look in looks]) / 3600
    result: dict[str, Any] = {}
    for field in (*MEMORY, *COUNTS):
        values = [float(getattr(look, field)) for look in looks]
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        slope = float(np.polyfit(hours, values, 1)[0]) if len(looks) > 1 else 0.0
        result[field] = {"first": round(first, 1), "last": round(last, 1), "an_hour": round(slope, 1)}
    grew = [field for field in COUNTS if result[field]["last"] > result[field]["first"]]
    for field in MEMORY:
        if result[field]["last"] > result[field]["first"] * (1 + SLACK) + SLACK_MB:
            grew.append(field)
    return {**result, "grew": grew}


def plot(looks: list[Look], path: Path) -> None:
    """One line a quantity over the minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [field.name for field in fields(Look) if field.name != "seconds"]
    figure, axes = pyplot.subplots(len(names), 1, figsize=(7, 7), sharex=True, layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        axis.plot([look.seconds / 60 for look in looks], [getattr(look, name) for look in looks])
        axis.set(ylabel=name, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("minutes")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Soak, print, plot; exit 1 if something grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a split")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=5, help="minutes before the first look")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--every", type=float, default=2, help="seconds between two looks")
    parser.add_argument("--lifetime", type=float, default=20, help="seconds that a loader lives")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/soak.png"))
    parser.add_argument("--looks", type=Path, help="write every look to this file as JSON lines")
    options = parser.parse_args()
    split = open_split(options.data)
    looks, served = soak(
        split,
        minutes=options.minutes,
        warm_minutes=options.warm_up,
        size=options.size,
        every_s=options.every,
        lifetime_s=options.lifetime,
    )
    verdict = judge(looks)
    epochs = served / len(split.index)
    facts = {
        "name": "soak",
        "minutes": options.minutes,
        "warm_up": options.warm_up,
        "samples": served,
        "epochs": round(epochs, 1),
    }
    print(json.dumps({**facts, "held": verdict, "looks": len(looks), **machine()}))
    if options.looks:
        options.looks.write_text("".join(json.dumps(asdict(look)) + "\n" for look in looks))
    plot(looks, options.plot)
    if verdict["grew"]:
        sys.exit(f"soak: grew: {', '.join(verdict['grew'])}")


if __name__ == "__main__":
    main()
