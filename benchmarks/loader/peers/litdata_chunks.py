"""LitData: chunks of JPEG bytes, which its own JPEG item decodes with torchvision; v2 transforms.

Chunks of 64 MB and the StreamingDataLoader are those of its README's ImageNet benchmark.
Source: github.com/Lightning-AI/litData, README "Benchmarks" and "Speed up model training".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from turbomim.benchmarks.loader.job import Job, worker_options
from turbomim.benchmarks.loader.peers.torchvision_io import chain

PACKAGE = "litdata"
READS = "litdata"

# more than any measurement takes
SAMPLES = 10**7


def sample(path: str) -> Any:
    """One item of the set: LitData keeps the file's own bytes."""
    from PIL import Image

    return Image.open(path)


def convert(files: Sequence[Path], folder: Path, cores: int) -> None:
    """Write the set into `folder`, one process a core."""
    import litdata

    litdata.optimize(
        fn=sample,
        inputs=[str(path) for path in files],
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=cores,
        keep_data_ordered=True,
        verbose=False,
    )


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    import litdata

    crop = chain(job)
    chunks = litdata.StreamingDataset(str(job.folder), shuffle=job.train, drop_last=job.train)
    # cycles through the set: a pause every few thousand samples would be the small set's fault
    data = litdata.ParallelStreamingDataset(
        [chunks], length=SAMPLES, transform=lambda samples: crop(samples[0]), resume=False
    )
    loader = litdata.StreamingDataLoader(
        data,
        batch_size=job.batch,
        **worker_options(job),
    )
    return cast(Iterator[Tensor], iter(loader))
