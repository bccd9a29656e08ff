"""What does the order of a stream cost as the split grows?  `python -m turbomim.benchmarks.loader.order`.

Time per batch of sample ids, from 10^4 to 10^10 samples ("full") and in windows of 16 shards of 1,000 samples
("window"), where a table of the epoch's shards is made once an epoch.  All sizes take turns in every round.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial

import numpy as np

from turbomim.benchmarks.timing import alternate, machine
from turbomim.pipeline.stream.order import Order, sample_ids
from turbomim.pipeline.stream.window_order import WindowOrder

SHARD, WINDOW, SEED = 1000, 16, 3
BASE = 10**6


def full(samples: int) -> Order:
    """The order that mixes the whole split."""
    return partial(sample_ids, size=samples, seed=SEED)


def windowed(samples: int) -> WindowOrder:
    """The order that mixes a window of shards, its table made anew."""
    return WindowOrder(np.full(samples // SHARD, SHARD), SEED, window=WINDOW)


def table_seconds(samples: int) -> float:
    """Time the first id of an epoch, which makes the table."""
    order = windowed(samples)
    begun = time.perf_counter()
    order(np.zeros(1, np.int64))
    return time.perf_counter() - begun


def main() -> None:
    """Print one JSON line a size and order, then a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    orders: dict[tuple[str, int], Order] = {("full", 10**power): full(10**power) for power in range(4, 11)}
    orders |= {("window", 10**power): windowed(10**power) for power in range(4, 9)}
    batches = {size: np.arange(size // 2, size // 2 + options.batch) for size in {size for _, size in orders}}
    seconds = alternate(
        {f"{name} {size}": partial(order, batches[size]) for (name, size), order in orders.items()},
        options.rounds,
    )
    facts = machine()
    rows = ["| order | samples | us a batch | of 10^6 | table, ms |", "|---|---|---|---|---|"]
    for name, size in orders:
        times, base = seconds[f"{name} {size}"], seconds[f"{name} {BASE}"]
        ratio = float(np.median(np.divide(times, base)))
        microseconds = 1e6 * float(np.median(times))
        table_ms = 1e3 * table_seconds(size) if name == "window" else 0.0
        line = {
            "name": f"order {name}",
            "samples": size,
            "batch": options.batch,
            "us_per_batch": round(microseconds, 1),
            "ratio_to_1e6": round(ratio, 2),
            "table_ms": round(table_ms, 2),
            "n": len(times),
            **facts,
        }
        print(json.dumps(line), flush=True)
        rows.append(f"| {name} | {size:,} | {microseconds:.0f} | {ratio:.2f} | {table_ms:.1f} |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
