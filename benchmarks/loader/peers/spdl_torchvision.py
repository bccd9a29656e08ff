"""SPDL's pipeline of threads with torchvision's decode and v2 transforms.

Its documentation also shows torchvision's transforms in its threads, which release the interpreter's lock.
Source: github.com/facebookresearch/spdl, examples/multi_thread_preprocessing.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from turbomim.benchmarks.loader.job import Job, sorted_files
from turbomim.benchmarks.loader.peers.spdl_ffmpeg import threaded
from turbomim.benchmarks.loader.peers.torchvision_io import bytes_transform

PACKAGE = "spdl.pipeline"
READS = "files"


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    files, transform = sorted_files(job.folder), bytes_transform(job)
    # one operator a thread: a second level of threads would only take turns
    torch.set_num_threads(1)
    return threaded(job, lambda index: transform(files[index].read_bytes()), torch.stack)
