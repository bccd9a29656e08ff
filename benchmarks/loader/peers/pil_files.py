"""The reference: PIL decode and torchvision's transforms on PIL images, in a DataLoader."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from turbomim.benchmarks.loader.job import Job, endless, sorted_files, worker_options

PACKAGE = "PIL"
READS = "files"


class Files(Dataset[Tensor]):
    """Photographs in files, through one transform of a path."""

    def __init__(self, job: Job, transform: Any) -> None:
        self.files = sorted_files(job.folder)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        tensor: Tensor = self.transform(self.files[index])
        return tensor


class Order(Sampler[int]):
    """Epoch after epoch without a pause: on a small set the workers would else stand still at each end."""

    def __init__(self, count: int, train: bool) -> None:
        self.count, self.train = count, train

    def __iter__(self) -> Iterator[int]:
        return endless(self.count, self.train)


def data_loader(job: Job, transform: Any) -> Iterator[Tensor]:
    """Batches of a map-style set of files.

    Persistent workers and prefetch are the documented settings; on two cores one worker a core was best.
    Source: docs.pytorch.org/docs/stable/data.html.
    """
    files, on_gpu = Files(job, transform), job.device == "cuda"
    loader = DataLoader(
        files,
        batch_size=job.batch,
        sampler=Order(len(files), job.train),
        **worker_options(job),
        pin_memory=on_gpu,
    )
    return (images.to("cuda", non_blocking=True) if on_gpu else images for images in loader)


def reference_transform(job: Job) -> Any:
    """Torchvision's transforms in the order of the published recipes, on PIL images, to a uint8 tensor."""
    from PIL import Image
    from torchvision import transforms as v1

    window = (
        [v1.Pad(4, padding_mode="reflect"), v1.RandomCrop(job.size), v1.RandomHorizontalFlip()]
        if job.train
        else [v1.CenterCrop(job.size)]
    )
    chain = v1.Compose(
        [v1.Resize(job.size, v1.InterpolationMode.BICUBIC), *window, v1.PILToTensor()],
    )

    def transform(path: Path) -> Tensor:
        with Image.open(path) as image:
            tensor: Tensor = chain(image.convert("RGB"))
        return tensor

    return transform


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.utils.data")
    return data_loader(job, reference_transform(job))
