"""Jobs on any `concurrent.futures.Executor`: threads, processes of this machine, or a Dask cluster."""

# Dask types little of its client
# mypy: allow-untyped-calls

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from itertools import islice, pairwise
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from turbomim.pipeline.system.errors import Stopped, UsageError, UserError, one_line

Item = TypeVar("Item")
Job = TypeVar("Job")
Result = TypeVar("Result")

# a network disk answers many small requests at once; a local one does not mind
READ_THREADS = 16

# jobs handed to an executor at a time: enough for a large cluster, and few enough to hold in memory
IN_FLIGHT = 1024

# seconds
CONNECT_TIMEOUT = 5
# seconds between two looks whether to stop
LOOK = 0.5


def wait_unless(stopping: Callable[[], bool], futures: Sequence[Future[Result]]) -> None:
    """Wait until all are done, whatever befell them.  Raises Stopped once `stopping` says so before."""
    while wait(futures, LOOK).not_done:
        if stopping():
            raise Stopped


def run_jobs(
    function: Callable[[Job], Result], jobs: Iterable[Job], executor: Executor | None
) -> Generator[Result, None, None]:
    """Yield the result of each job as it ends, in any order; executor None works in this process.

    Jobs not begun are cancelled when this is closed or raises.  Raises what `function` raises, and UserError
    if the executor breaks.
    """
    if executor is None:
        for job in jobs:
            yield function(job)
        return
    ended: SimpleQueue[Future[Result]] = SimpleQueue()
    running: set[Future[Result]] = set()
    waiting = iter(jobs)

    def submit(count: int) -> None:
        for job in islice(waiting, count):
            future = executor.submit(function, job)
            running.add(future)
            future.add_done_callback(ended.put)

    try:
        submit(IN_FLIGHT)
        while running:
            future = ended.get()
            running.remove(future)
            result = future.result()
            submit(1)
            yield result
    except (BrokenExecutor, CancelledError) as error:
        raise UserError(
            "a worker process died (killed, or out of memory), or the executor was shut down; try fewer "
            "--workers, and run the same command again"
        ) from error
    finally:
        for future in running:
            future.cancel()


@contextmanager
def local_processes(workers: int, *, patient: bool = True) -> Iterator[Executor | None]:
    """Yield an executor of `workers` processes, None for one: that works in this process.

    No worker is left afterwards; unless it is patient, a KeyboardInterrupt leaves those that have not ended
    their job, and they end with it or with this process.
    """
    if workers == 1:
        yield None
        return
    # spawn: a fork would copy the locks of whatever threads the caller runs
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    wait = True
    try:
        yield pool
    except KeyboardInterrupt:
        wait = patient
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)


@contextmanager
def open_executor(place: str) -> Iterator[Executor | None]:
    """Yield the executor that `place` names: None for "local", that of a cluster for "dask:ADDRESS".

    Raises UsageError for another place, UserError if Dask is not installed or nothing answers there.
    """
    kind, _, address = place.partition(":")
    if place == "local":
        yield None
        return
    if kind != "dask" or not address:
        raise UsageError(f"--executor is {place!r}: give local, or dask:ADDRESS as dask:tcp://HOST:8786")
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise UserError(
            f"--executor {place} needs Dask, which is not installed: pip install 'turbomim[dask]'"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT, set_as_default=False)
    # by cause: refused, timed out, unknown scheme, no such host
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise UserError(
            f"no Dask scheduler at {address!r}: {reason}; start one with `dask scheduler`, give its address"
        ) from error
    with client:
        try:
            # not pure: a job writes files, and must run again where an earlier run ran it
            yield client.get_executor(pure=False)
        except KilledWorker as error:
            raise UserError(
                f"the Dask workers at {address!r} died over a shard (killed, or out of memory); give them "
                "more memory, and run the same command again"
            ) from error


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def on_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map on READ_THREADS threads; the first error in the order of the items is raised.

    Each thread takes runs of items: a task for each of 100,000 shards would cost more than its work.
    """
    edges = np.linspace(0, len(items), min(len(items), 4 * READ_THREADS) + 1).astype(int).tolist()
    runs = [items[first:last] for first, last in pairwise(edges)]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return [result for run in pool.map(lambda run: [*map(function, run)], runs) for result in run]
