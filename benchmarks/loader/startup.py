"""How long until the first sample, and how much memory?  `python -m turbomim.benchmarks.loader.startup`.

Opens simulated splits in fresh processes: tar files of the right size without content (sparse), real index
files, a real manifest; nothing of the images is read.  The index files lie in the page cache.  Prints JSON
lines and a table, writes docs/images/startup.png, and removes its files.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from turbomim.pipeline.stream.turns import BatchCut, SampleStream, turns
from turbomim.pipeline.tars.index import index_text
from turbomim.pipeline.tars.manifest import MANIFEST, Manifest, Shard, fingerprint_of
from turbomim.pipeline.tars.split import open_split
from turbomim.pipeline.tars.tar import BLOCK, round_up, tar_end

IMAGENET = 1_281_167
SHARD, IMAGENET_SHARD = 1000, 1024
IMAGE_BYTES = (20_000, 200_000)
# shards differ a little, as real ones do
PATTERNS = 8
BATCH = 256


def simulate(folder: Path, samples: int, shard_samples: int) -> None:
    """Write a split whose images are holes."""
    shards: list[Shard] = []
    patterns: dict[tuple[int, int], tuple[bytes, int]] = {}
    for number, first in enumerate(range(0, samples, shard_samples)):
        key = number % PATTERNS, min(shard_samples, samples - first)
        if key not in patterns:
            patterns[key] = pattern(*key)
        text, size = patterns[key]
        name = f"sim-train-{number:06d}"
        with open(folder / f"{name}.tar", "wb") as tar:
            tar.truncate(size)
        (folder / f"{name}.idx").write_bytes(text)
        shards.append(Shard(name=f"{name}.tar", samples=key[1], bytes=size, sha256=f"{number:064x}"))
    manifest = Manifest(
        name="sim",
        split="train",
        shards=tuple(shards),
        classes=tuple(f"class{label}" for label in range(1000)),
        fingerprint=fingerprint_of(shards),
        made={"by": "simulation"},
    )
    (folder / MANIFEST).write_text(manifest.to_json())


def pattern(number: int, samples: int) -> tuple[bytes, int]:
    """Give the index text and the bytes of a tar of so many photographs."""
    random = np.random.default_rng(number)
    place, lines = 0, []
    for sample, (label, size) in enumerate(
        zip(
            random.integers(0, 1000, samples).tolist(),
            random.integers(*IMAGE_BYTES, samples).tolist(),
            strict=True,
        )
    ):
        key, image = f"n{label:08d}_{sample:08d}", place + 3 * BLOCK
        lines.append(f"cls {place + BLOCK} {len(str(label))} {key}.cls jpg {image} {size} {key}.jpg")
        place = round_up(image + size, BLOCK)
    return index_text(lines), place + len(tar_end(place))


def measure(folder: Path) -> dict[str, float]:
    """Open the split in this process; seconds, and bytes above what the process had before."""
    before = memory("VmRSS")
    # from here on the peak is that of opening the split
    Path("/proc/self/clear_refs").write_text("5")
    begun = time.perf_counter()
    split = open_split(folder)
    opened = time.perf_counter()
    stream = SampleStream(seed=0, cut=BatchCut(global_batch=BATCH, micro_batch=BATCH))
    next(turns(stream, [len(split.index)]))
    done = time.perf_counter()
    return {
        "open_s": opened - begun,
        "first_ids_s": done - opened,
        "resident_bytes": memory("VmRSS") - before,
        "peak_bytes": memory("VmHWM") - before,
    }


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def in_fresh_processes(samples: int, shard_samples: int, runs: int, within: Path) -> dict[str, Any]:
    """Simulate a split, open it in `runs` processes, remove it; medians."""
    with tempfile.TemporaryDirectory(dir=within) as folder:
        begun = time.perf_counter()
        simulate(Path(folder), samples, shard_samples)
        made_s = time.perf_counter() - begun
        command = [sys.executable, "-m", "turbomim.benchmarks.loader.startup", "--measure", folder]
        results = [json.loads(subprocess.check_output(command)) for _ in range(runs)]
    middle = {name: statistics.median(result[name] for result in results) for name in results[0]}
    return {
        "name": "startup",
        "samples": samples,
        "shards": -(-samples // shard_samples),
        "open_s": round(middle["open_s"], 4),
        "first_ids_s": round(middle["first_ids_s"], 5),
        "resident_bytes_a_sample": round(middle["resident_bytes"] / samples, 1),
        "peak_bytes_a_sample": round(middle["peak_bytes"] / samples, 1),
        "peak_mb": round(middle["peak_bytes"] / 1e6, 1),
        "runs": runs,
        "simulated_in_s": round(made_s, 1),
    }


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory over the samples, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples = [line["samples"] for line in lines]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.loglog(samples, [line["open_s"] + line["first_ids_s"] for line in lines], "o-", label="turbomim")
    left.axhline(2, color="grey", linestyle=":", label="2 s")
    left.set(xlabel="samples", ylabel="seconds", title="from a path to the first ids")
    right.loglog(samples, [line["peak_mb"] for line in lines], "o-", label="peak")
    right.loglog(
        samples,
        [line["resident_bytes_a_sample"] * line["samples"] / 1e6 for line in lines],
        "s--",
        label="resident",
    )
    right.set(xlabel="samples", ylabel="MB", title="memory of the index")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure each size, print, plot."""
    from turbomim.benchmarks.timing import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=float, default=1e7, help="samples, up to 1e8 (9 GB of index files)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--within", type=Path, default=Path(tempfile.gettempdir()), help="folder for the splits"
    )
    parser.add_argument("--plot", type=Path, default=Path("docs/images/startup.png"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    sizes = sorted([*(10**power for power in range(4, 9)), IMAGENET])
    lines = []
    for samples in [size for size in sizes if size <= options.largest]:
        shard_samples = IMAGENET_SHARD if samples == IMAGENET else SHARD
        lines.append(in_fresh_processes(samples, shard_samples, options.runs, options.within))
        print(json.dumps({**lines[-1], **machine()}), flush=True)
    plot(lines, options.plot)
    print("| samples | shards | open, s | first ids, ms | resident, bytes a sample | peak, bytes a sample |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        cells = (
            f"{line['samples']:,}",
            f"{line['shards']:,}",
            f"{line['open_s']:.3f}",
            f"{1e3 * line['first_ids_s']:.2f}",
            f"{line['resident_bytes_a_sample']}",
            f"{line['peak_bytes_a_sample']}",
        )
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
