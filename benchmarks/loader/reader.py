"""How fast are encoded photographs read?  `python -m turbomim.benchmarks.loader.reader --data SPLIT`.

Everyone hands the encoded bytes of the same shards, from the page cache, to a DALI pipeline: ours by
external_source without a copy, DALI by its own webdataset reader with our index.  Two consumers: "handed
over" does nothing with the bytes, so whoever maps the file has read none of them yet; "read once" takes the
maximum of every image's bytes, as little as any decoder must do.  Fresh processes take turns; ratios are
those of the same round.
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia import dali
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from turbomim.benchmarks.timing import machine
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, Turn, turns
from turbomim.pipeline.tars.index import OURS
from turbomim.pipeline.tars.split import Split, open_split

# DALI's annotations of readers and reductions do not fit their use
fn: Any = dali.fn

Images = Iterator[list[NDArray[np.uint8]]]

PREFETCH = 2
# batches
WARM_UP = 50
CONSUMERS = ("handed over", "read once")
DALI: dict[str, dict[str, bool]] = {
    "DALI, mmap": {},
    "DALI, mmap, shuffled": {"random_shuffle": True},
    "DALI, pread": {"dont_use_mmap": True},
    "DALI, pread, shuffled": {"dont_use_mmap": True, "random_shuffle": True},
}
OURS_NAMES = ("ours, 1 reader", "ours, 2 readers")
BASELINE = "DALI, pread, shuffled"


def stream(split: Split, batch: int) -> Iterator[Turn]:
    """The shuffled order of the loader."""
    cut = BatchCut(global_batch=batch, micro_batch=batch)
    return turns(SampleStream(seed=1, cut=cut), [len(split.index)])


def ours(split: Split, batch: int, readers: int) -> Images:
    """The loader's reads."""
    for _, samples in ReadAhead(split, stream(split, batch), readers=readers, prefetch=PREFETCH):
        yield samples.images


def spans(split: Split, turn: Turn) -> Iterator[tuple[int, int, int]]:
    """Shard, offset and bytes of each image."""
    index = split.index
    columns = (index.shard_N, index.image_offset_N, index.image_bytes_N)
    return zip(*(column[turn.ids_B].tolist() for column in columns), strict=True)


def bare_pread(split: Split, batch: int) -> Images:
    """One pread an image: no label, no check, no thread."""
    files = [os.open(split.shard_path(shard), os.O_RDONLY) for shard in range(len(split.manifest.shards))]
    for turn in stream(split, batch):
        yield [
            np.frombuffer(os.pread(files[shard], size, offset), np.uint8)
            for shard, offset, size in spans(split, turn)
        ]


def mapped(split: Split, batch: int) -> Images:
    """Views of the mapped files: nothing is copied, and a shard that is cut ends the process by SIGBUS."""
    tars = []
    for shard in range(len(split.manifest.shards)):
        with open(split.shard_path(shard), "rb") as tar:
            tars.append(np.frombuffer(mmap.mmap(tar.fileno(), 0, prot=mmap.PROT_READ), np.uint8))
    for turn in stream(split, batch):
        yield [tars[shard][offset : offset + size] for shard, offset, size in spans(split, turn)]


SOURCES: dict[str, Callable[[Split, int], Images]] = {
    OURS_NAMES[0]: lambda split, batch: ours(split, batch, 1),
    OURS_NAMES[1]: lambda split, batch: ours(split, batch, 2),
    "bare pread": bare_pread,
    "bare mmap": mapped,
}


def consume(encoded: DataNode, consumer: str) -> DataNode:
    """What becomes of the encoded bytes."""
    return fn.reductions.max(encoded) if consumer == "read once" else encoded


def dali_step(
    split: Split, pipeline: Pipeline, options: dict[str, bool], consumer: str
) -> Callable[[], object]:
    """Define DALI's own reader; return what runs a batch."""
    paths = [split.shard_path(shard) for shard in range(len(split.manifest.shards))]
    with pipeline:
        images, _ = fn.readers.webdataset(
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=[";".join(OURS.image), "cls"],
            missing_component_behavior="error",
            **options,
        )
        pipeline.set_outputs(consume(images, consumer))
    pipeline.build()
    return pipeline.run


def fed_step(images: Images, pipeline: Pipeline, consumer: str) -> Callable[[], object]:
    """Feed encoded images without a copy; return what runs a batch."""
    with pipeline:
        pipeline.set_outputs(consume(fn.external_source(name="images", no_copy=True), consumer))
    pipeline.build()
    for _ in range(PREFETCH):
        pipeline.feed_input("images", next(images))
    pipeline.schedule_run()

    def step() -> None:
        pipeline.outputs()
        pipeline.feed_input("images", next(images))
        pipeline.schedule_run()

    return step


def measure(folder: Path, name: str, consumer: str, batch: int, seconds: float) -> dict[str, float]:
    """Read for some seconds in this process: samples/s, CPU us and page faults a sample."""
    split = open_split(folder)
    pipeline = Pipeline(batch_size=batch, num_threads=2, device_id=None, prefetch_queue_depth=PREFETCH)
    if name in DALI:
        step = dali_step(split, pipeline, DALI[name], consumer)
    else:
        step = fed_step(SOURCES[name](split, batch), pipeline, consumer)
    for _ in range(WARM_UP):
        step()
    before, begun, samples = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        step()
        samples += batch
    elapsed, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "samples_per_s": samples / elapsed,
        "cpu_us": 1e6 * cpu / samples,
        "faults": (after.ru_minflt - before.ru_minflt) / samples,
    }


def main() -> None:
    """Take turns, print one JSON line a reader and consumer, then a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a split")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each process in each round")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, consumer = options.measure
        print(json.dumps(measure(options.data, name, consumer, options.batch, options.seconds)), flush=True)
        # the readers' threads have nothing left to do
        os._exit(0)
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for consumer in CONSUMERS:
            for name in (*SOURCES, *DALI):
                command = [sys.executable, "-m", "turbomim.benchmarks.loader.reader", *sys.argv[1:]]
                output = subprocess.check_output([*command, "--measure", name, consumer])
                results.setdefault((name, consumer), []).append(json.loads(output.splitlines()[-1]))
    rows = [f"| reader | consumer | samples/s | CPU us | times {BASELINE} | times DALI, mmap, shuffled |"]
    rows.append("|---|---|---|---|---|---|")
    for (name, consumer), runs in results.items():
        line = summary(name, consumer, runs, results)
        print(json.dumps({**line, "batch": options.batch, **machine()}), flush=True)
        rows.append(
            f"| {name} | {consumer} | {line['samples_per_s']:,} | {line['cpu_us']} "
            f"| {line['times_dali_pread']} | {line['times_dali_mmap']} |"
        )
    print("\n".join(rows))


def summary(
    name: str,
    consumer: str,
    runs: list[dict[str, float]],
    results: dict[tuple[str, str], list[dict[str, float]]],
) -> dict[str, Any]:
    """Medians over the rounds, and ratios round by round."""

    def times(baseline: str) -> float:
        rates = zip(runs, results[baseline, consumer], strict=True)
        return round(statistics.median(a["samples_per_s"] / b["samples_per_s"] for a, b in rates), 2)

    def middle(field: str, digits: int | None = None) -> float:
        return round(statistics.median(run[field] for run in runs), digits)

    return {
        "name": f"read: {name}",
        "consumer": consumer,
        "samples_per_s": middle("samples_per_s"),
        "cpu_us": middle("cpu_us", 1),
        "faults": middle("faults", 2),
        "times_dali_pread": times(BASELINE),
        "times_dali_mmap": times("DALI, mmap, shuffled"),
        "n": len(runs),
    }


if __name__ == "__main__":
    main()
