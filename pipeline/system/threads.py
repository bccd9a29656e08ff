"""Threads that call torch beside each other."""

from concurrent.futures import ThreadPoolExecutor, wait
from threading import Barrier

import torch


def serial_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Make a pool whose threads each run torch's operators alone.

    Otherwise every one of them starts as many more as there are cores, for each image anew.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_run_alone)
    before = torch.get_num_threads()
    # none of the tasks ends before each thread has begun
    barrier = Barrier(threads)
    wait([pool.submit(barrier.wait) for _ in range(threads)])
    # torch gives the number set last to threads that begin later, which are none of ours
    torch.set_num_threads(before)
    return pool


def _run_alone() -> None:
    # the number is a thread's own, from the first call in it on
    torch.get_num_threads()
    torch.set_num_threads(1)
