"""One reader in a process of its own: two epochs, timed and counted.  Prints a JSON line."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import psutil
from torch import Tensor

from turbomim.benchmarks.loader.run import cpu_seconds, family
from turbomim.benchmarks.stores import readers
from turbomim.benchmarks.stores.job import ReadJob, Served
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.stream.turns import turns
from turbomim.pipeline.tars.tar import BLOCK

# looks at the memory in an epoch
LOOKS: Final = 4


def measure(job: ReadJob, epochs: readers.Epochs) -> dict[str, Any]:
    """Both epochs of a reader: see `time_epoch`; and how long the first batch took."""
    begun, before = time.perf_counter(), Served.now(job)
    found: list[dict[str, float]] = []
    for batches in itertools.islice(epochs, 2):
        first = len(next(batches))
        if not found:
            first_s = time.perf_counter() - begun
        found.append(time_epoch(job, batches, first, before))
        before = Served.now(job)
    return {"first_s": first_s, "epochs": found}


def time_epoch(job: ReadJob, batches: Iterator[Tensor], first: int, before: Served) -> dict[str, float]:
    """Rates of an epoch after its first batch of `first` images, and what the server did for all of it.

    images_per_s: by the clock; cpu_s and server_cpu_s: of this process with its children and of the server, a
    1,000 images; memory_mb: proportional set size of these processes at most, at a few looks.
    """
    served = Served.now(job)
    cpu, begun = cpu_seconds(), time.perf_counter()
    images, memory, looked_s = first, 0, 0.0
    for batch in batches:
        images += len(batch)
        if images * LOOKS // job.samples != (images - len(batch)) * LOOKS // job.samples:
            look = time.perf_counter(), cpu_seconds()
            memory = max(memory, sum(map(_size_of, family())))
            looked_s += time.perf_counter() - look[0]
            cpu += cpu_seconds() - look[1]
    seconds = time.perf_counter() - begun - looked_s
    used = cpu_seconds() - cpu
    now = Served.now(job)
    timed = images - first
    return {
        "images": images,
        "images_per_s": timed / seconds,
        "cpu_s": 1000 * used / timed,
        "server_cpu_s": 1000 * now.since(served).cpu_s / timed,
        "requests": now.since(before).requests,
        "sent_bytes": now.since(before).sent_bytes,
        "memory_mb": memory / 1e6,
    }


def _size_of(process: psutil.Process) -> int:
    """The proportional set size, bytes; 0 of a process that has just ended."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, FileNotFoundError):
        return 0


def count(job: ReadJob) -> dict[str, Any]:
    """What exactly an epoch of ours costs: requests, bytes that the server sent and that were wanted.

    Read to the end and not decoded: a loader would read the next epoch ahead.  wanted: labels, photographs,
    and the tar header of each, with which it is compared.
    """
    split = readers.open_for(job)
    shards = [shard.samples for shard in split.manifest.shards]
    epoch = list(itertools.islice(turns(readers.stream_of(job), shards), job.samples // job.batch))
    ids_N = np.concatenate([turn.ids_B for turn in epoch])
    bytes_N = split.index.image_bytes_N.astype(np.int64) + split.index.label_bytes_N + BLOCK
    before = Served.now(job)
    with ReadAhead(split, iter(epoch), readers=2, prefetch=3) as ahead:
        for _ in ahead:
            pass
    done = Served.now(job).since(before)
    hits = 0 if split.cache is None else split.cache.stats.hits
    return {
        "hits": hits,
        "requests": done.requests,
        "sent_bytes": done.sent_bytes,
        "wanted_bytes": int(bytes_N[ids_N].sum()),
        "images": len(ids_N),
    }


def answer(request: dict[str, Any], job: ReadJob) -> dict[str, Any]:
    """Fill a cache, count or time, by what the request holds beside the job."""
    if "fill" in request:
        readers.fill_cache(job)
        return {}
    if "count" in request:
        return count(job)
    return measure(job, getattr(readers, request["reader"])(job))


def main() -> None:
    """`reading JSON`: answer one request of the comparison."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    job = ReadJob(**request["job"])
    print(json.dumps(answer(request, job)), flush=True)
    # threads and workers that a reader left behind would keep this process
    os._exit(0)


if __name__ == "__main__":
    main()
