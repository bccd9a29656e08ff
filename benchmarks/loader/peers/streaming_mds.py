"""MosaicML Streaming: MDS shards of JPEG bytes, torchvision's decode and v2 transforms, in a DataLoader.

Its documentation advises its defaults when the shards are local.
Source: docs.mosaicml.com/projects/streaming, "Performance Tuning".
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from turbomim.benchmarks.loader.job import Job, worker_options
from turbomim.benchmarks.loader.peers.torchvision_io import bytes_transform

PACKAGE = "streaming"
READS = "mds"
# so its metadata say; what is used of it here runs with newer ones too
INSTALL = "pip install 'turbomim[bench,mosaic]', which takes transformers below 5 and numpy below 2.2"

# samples drawn before the next epoch begins: a pause on every few thousand would be the small set's fault
EPOCH = 200_000


def convert(files: Sequence[Path], folder: Path, cores: int) -> None:
    """Write the set into `folder`; its writer is one process."""
    streaming: Any = importlib.import_module("streaming")
    with streaming.MDSWriter(out=str(folder), columns={"jpeg": "bytes"}) as writer:
        for path in files:
            writer.write({"jpeg": path.read_bytes()})


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    streaming: Any = importlib.import_module("streaming")

    class Crops(streaming.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Tensor:
            tensor: Tensor = transform(super().__getitem__(at)["jpeg"])
            return tensor

    transform = bytes_transform(job)
    # of a run that was killed
    streaming.base.util.clean_stale_shared_memory()
    data = Crops(
        local=str(job.folder),
        shuffle=job.train,
        batch_size=job.batch,
        epoch_size=EPOCH if job.train else None,
    )
    loader: DataLoader[Tensor] = DataLoader(
        data,
        batch_size=job.batch,
        **worker_options(job),
    )
    while True:
        yield from loader
