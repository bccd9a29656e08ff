"""One shard is one pure job: photographs in, a tar and its index out; and how jobs run on worker
processes."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from turbomim.pipeline.durable import durable_file, write_durably
from turbomim.pipeline.errors import UserError
from turbomim.pipeline.photographs import Photograph, RefusedImage, read_image
from turbomim.pipeline.shards import Shard
from turbomim.pipeline.tar import BLOCK, RECORD, index_text, sample_bytes, tar_end, tar_member

# called with (images done, images in all) after each shard
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadImage:
    """An image file that was left out. path: relative to the source."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """All that writing one shard needs. stem: file name without extension; min_side: pixels."""

    source: str
    folder: str
    stem: str
    images: tuple[Photograph, ...]
    min_side: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardResult:
    """What a job wrote: shard is None where no image was fit; samples_by_label counts what was written."""

    shard: Shard | None
    bad: tuple[BadImage, ...]
    samples_by_label: dict[int, int]


def job_bytes(job: ShardJob) -> int:
    """Bytes of the tar if every image is fit; the index is under a hundredth of it."""
    return sum(sample_bytes(len(str(image.label)), image.bytes) for image in job.images) + RECORD


def pack_shard(job: ShardJob) -> ShardResult:
    """Write one tar and its index.  The same job gives the same bytes, in any process."""
    tar_path = Path(job.folder, f"{job.stem}.tar")
    digest, size = hashlib.sha256(), 0
    lines: list[str] = []
    bad: list[BadImage] = []
    by_label = Counter[int]()
    with durable_file(tar_path, needed=job_bytes(job)) as out:
        for image in job.images:
            try:
                content, extension = read_image(os.path.join(job.source, image.path), job.min_side)
            except RefusedImage as refused:
                bad.append(BadImage(path=image.path, reason=str(refused)))
                continue
            fields = []
            for kind, data in (("cls", str(image.label).encode()), (extension, content)):
                member = tar_member(f"{image.key}.{kind}", data)
                fields.append(f"{kind} {size + BLOCK} {len(data)} {image.key}.{kind}")
                out.write(member)
                digest.update(member)
                size += len(member)
            lines.append(" ".join(fields))
            by_label[image.label] += 1
        out.write(tar_end(size))
        digest.update(tar_end(size))
        size += len(tar_end(size))
    if not lines:
        tar_path.unlink()
        return ShardResult(shard=None, bad=tuple(bad), samples_by_label={})
    write_durably(tar_path.with_suffix(".idx"), index_text(lines))
    shard = Shard(name=tar_path.name, samples=len(lines), bytes=size, sha256=digest.hexdigest())
    return ShardResult(shard=shard, bad=tuple(bad), samples_by_label=dict(by_label))


def run_jobs(jobs: list[ShardJob], workers: int, progress: Progress | None = None) -> list[ShardResult]:
    """Run every job; results in the order of the jobs, whatever order they end in.

    workers: processes; 1 works in this one.  No worker is left when this returns or raises.  Raises UserError
    if a worker dies, and what `pack_shard` raises.
    """
    total, done = sum(len(job.images) for job in jobs), 0
    results: dict[int, ShardResult] = {}

    def keep(number: int, result: ShardResult) -> None:
        nonlocal done
        results[number] = result
        done += len(jobs[number].images)
        if progress is not None:
            progress(done, total)

    if min(workers, len(jobs)) == 1:
        for number, job in enumerate(jobs):
            keep(number, pack_shard(job))
    else:
        _run_on_processes(jobs, min(workers, len(jobs)), keep)
    return [results[number] for number in range(len(jobs))]


def _run_on_processes(jobs: list[ShardJob], workers: int, keep: Callable[[int, ShardResult], None]) -> None:
    # spawn: a fork would copy the locks of whatever threads the caller runs
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        number_of = {pool.submit(pack_shard, job): number for number, job in enumerate(jobs)}
        for future in as_completed(number_of):
            keep(number_of[future], future.result())
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} worker processes died (killed, or out of memory): nothing was kept; "
            "try fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
