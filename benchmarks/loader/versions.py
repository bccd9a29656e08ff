"""The loader of two trees of this project, in turns: CPU seconds and time an image, ours over theirs.

    git worktree add ../before COMMIT
    python -m turbomim.benchmarks.loader.versions ../before --shards SHARDS [--crop src] [--rounds 7]

Each measurement is a fresh process over the same shards in the page cache.  Ratios are of medians, and their
range is that of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

from turbomim.benchmarks.timing import machine

# runs in either tree: older ones have open_split elsewhere, and a loader of flat arguments
CODE: Final = """
import json, resource, sys, time
from turbomim.pipeline.loader import Loader
try:
    from turbomim.pipeline.tars.split import open_split
except ModuleNotFoundError:
    from turbomim.pipeline.shards import open_split
shards, crop, images, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
try:
    from turbomim.pipeline.decoding.crop import Crop
    from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
    from turbomim.pipeline.stream.turns import BatchCut, SampleStream
    stream = SampleStream(seed=1, cut=BatchCut(global_batch=64, micro_batch=64))
    groups = Crop(kind=crop, size=224), stream, LoaderSpeed(threads=threads), BadSampleLimits()
    loader = Loader(open_split(shards), *groups)
except ModuleNotFoundError:
    settings = {"size": 224, "crop": crop, "seed": 1, "global_batch": 64, "micro_batch": 64}
    loader = Loader(open_split(shards), **settings, threads=threads, readers=2)
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
with loader:
    for _ in range(4):
        next(loader)
    before, begun = cpu(), time.perf_counter()
    for _ in range(-(-images // 64)):
        next(loader)
    taken, wall = cpu() - before, time.perf_counter() - begun
done = -(-images // 64) * 64
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"cpu_us": taken / done * 1e6, "wall_us": wall / done * 1e6, "peak_mb": peak}))
"""


def measure(tree: Path, words: list[str]) -> dict[str, float]:
    """One process of a tree's loader: µs an image of CPU and of time, and the memory at most, MB."""
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve() / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure both, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="the other tree")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--crop", default="src", choices=("src", "rrc"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=3000, help="of each measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench_loader_versions.jsonl"))
    options = parser.parse_args()
    words = [str(options.shards.resolve()), options.crop, str(options.images), str(options.threads)]
    ours = Path(__file__).resolve().parents[2]
    ours = ours if (ours / "src").exists() else ours.parents[1]
    rounds = []
    for number in range(options.rounds):
        # whoever is second in a round is first in the next
        trees = {"before": options.before, "after": ours}
        order = list(trees) if number % 2 else list(trees)[::-1]
        rounds.append({name: measure(trees[name], words) for name in order})
        print(json.dumps(rounds[-1]), flush=True)
    for figure in ("cpu_us", "wall_us", "peak_mb"):
        before, after = ([each[name][figure] for each in rounds] for name in ("before", "after"))
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        row = {
            "name": "bench_loader_versions", "crop": options.crop, "figure": figure,
            "before": round(statistics.median(before), 1), "after": round(statistics.median(after), 1),
            "ratio": round(statistics.median(after) / statistics.median(before), 4),
            "of_rounds": [round(min(ratios), 4), round(statistics.median(ratios), 4), round(max(ratios), 4)],
        }  # fmt: skip
        print(json.dumps(row))
        with options.out.open("a") as out:
            print(
                json.dumps({**row, "images": options.images, "rounds": options.rounds, **machine()}), file=out
            )


if __name__ == "__main__":
    main()
