"""ffcv: its file of JPEG bytes or raw pixels, its compiled decoder, its crop and flip.

The decoder is its centre crop's with another window: that of the simple resized crop.  RANDOM order, the
operating system's cache and one worker a core are its documented settings for a set that fits into memory.
Source: docs.ffcv.io/parameter_tuning.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from turbomim.benchmarks.loader.job import Job, Notes

PACKAGE = "ffcv"
READS = "ffcv"
INSTALL = "apt-get install libopencv-dev libturbojpeg0-dev pkg-config, then pip install ffcv"

_INSIDE = "no reflection: the window stays inside"
NOTES: Notes = {
    "original": f"OpenCV's area filter, fast DCT; {_INSIDE}",
    "resized": f"fast DCT; {_INSIDE}",
    "raw": _INSIDE,
}

# epochs that follow each other without a pause
EPOCHS = 64


def convert(files: Sequence[Path], folder: Path, cores: int) -> None:
    """Write the set into `folder`: the bytes of JPEG files, the pixels of PPM files."""
    from ffcv.fields import RGBImageField
    from ffcv.writer import DatasetWriter

    class Photographs:
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> tuple[Any]:
            return (files[index],)

    class PhotographField(RGBImageField):  # type: ignore[misc]
        # the base class would encode the pixels of a JPEG again: then the bytes would not be the others'
        def encode(self, destination: Any, path: Path, malloc: Any) -> None:
            with Image.open(path) as image:
                if image.format != "JPEG":
                    super().encode(destination, image.convert("RGB"), malloc)
                    return
                destination["mode"], destination["width"], destination["height"] = (
                    0,
                    image.width,
                    image.height,
                )
            content = np.frombuffer(path.read_bytes(), np.uint8)
            destination["data_ptr"], storage = malloc(content.nbytes)
            storage[:] = content

    folder.mkdir()
    writer = DatasetWriter(
        str(folder / "photographs.beton"), {"image": PhotographField(write_mode="raw")}, num_workers=cores
    )
    writer.from_indexed_dataset(Photographs())


def batches(job: Job) -> Iterator[Tensor]:
    """As `Peer.batches`."""
    from ffcv.fields import RGBImageField
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    class Window(CenterCropRGBImageDecoder):  # type: ignore[misc]
        @property
        def get_crop_generator(self) -> Any:
            return _random_window if job.train else _centre_window

    path = str(job.folder / "photographs.beton")
    fields = {"image": RGBImageField}
    epochs = EPOCHS if job.train else 1
    loader = Loader(
        path,
        batch_size=job.batch,
        num_workers=job.workers or job.cores,
        os_cache=True,
        order=OrderOption.RANDOM if job.train else OrderOption.SEQUENTIAL,
        indices=np.tile(np.arange(Reader(path, fields).num_samples, dtype=np.uint64), epochs),
        pipelines={
            "image": [
                Window((job.size, job.size), ratio=1),
                *([RandomHorizontalFlip()] if job.train else []),
                ToTensor(),
            ]
        },
        custom_fields=fields,
    )
    while True:
        for (images,) in loader:
            yield images


# Numba compiles these two into ffcv's loop.  Its own callers give a scale and a ratio, unused here.


def _random_window(height: int, width: int, _scale: Any, _ratio: Any) -> tuple[int, int, int, int]:
    side = min(height, width)
    top = np.random.randint(0, height - side + 1)
    left = np.random.randint(0, width - side + 1)
    return top, left, side, side


def _centre_window(height: int, width: int, _scale: Any, _ratio: Any) -> tuple[int, int, int, int]:
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
