"""torchvision.io and transforms.v2 on uint8 tensors, in a DataLoader; on a GPU in threads, batch by batch.

Tensors, uint8 and v2 are what its guide recommends for speed; decode_jpeg gives channels-last pixels, which
its resize prefers.  Source: docs.pytorch.org/vision/stable/transforms.html, "Performance considerations".
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turbomim.benchmarks.loader.job import Job, endless, sorted_files
from turbomim.benchmarks.loader.peers.pil_files import data_loader

PACKAGE = "torchvision"
READS = "files"


def chain(job: Job) -> Any:
    """The work as v2 transforms of decoded pixels, (C, H, W) uint8."""
    from torchvision.transforms import InterpolationMode, v2

    window = (
        # four times faster than RandomCrop's own padding
        [v2.Pad(4, padding_mode="reflect"), v2.RandomCrop(job.size), v2.RandomHorizontalFlip()]
        if job.train
        else [v2.CenterCrop(job.size)]
    )
    return v2.Compose([v2.Resize(job.size, InterpolationMode.BICUBIC, antialias=True), *window])


def bytes_transform(job: Job) -> Any:
    """The work on encoded bytes: decode_jpeg, then `chain`.  Other peers use it too."""
    from torchvision.io import ImageReadMode, decode_jpeg

    # bytes are read-only memory, which torch warns of
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    transforms = chain(job)

    def transform(encoded: bytes) -> Tensor:
        pixels = decode_jpeg(torch.frombuffer(encoded, dtype=torch.uint8), mode=ImageReadMode.RGB)
        tensor: Tensor = transforms(pixels)
        return tensor

    return transform


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    if job.device == "cuda":
        return cuda_batches(job)
    transform = bytes_transform(job)
    return data_loader(job, lambda path: transform(path.read_bytes()))


def cuda_batches(job: Job) -> Iterator[Tensor]:
    """A list of files at once to decode_jpeg on the GPU, then `chain` there; threads read a batch ahead.

    Source: docs.pytorch.org/vision/stable/generated/torchvision.io.decode_jpeg.html, lists of images.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    files, transforms = sorted_files(job.folder), chain(job)

    def read(path: Path) -> Tensor:
        return torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)

    with ThreadPoolExecutor(job.workers or job.cores) as pool:
        indices = endless(len(files), job.train)
        ahead: deque[Any] = deque()
        while True:
            ahead.append([pool.submit(read, files[index]) for index in islice(indices, job.batch)])
            if len(ahead) > 2:
                encoded = [future.result() for future in ahead.popleft()]
                decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device="cuda")
                yield torch.stack([transforms(pixels) for pixels in decoded])
