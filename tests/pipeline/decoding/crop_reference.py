"""Two references for each crop, and one run of the graph to compare with them.

`by_torchvision` is the pipeline of the papers, on PIL images.  `by_definition` resizes in float with the same
filter and the edge repeated: what the loader states.  `rrc_` marks those of the random resized crop,
whose windows torchvision itself finds from the sample's words.
"""

import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torchvision.transforms.functional as tv
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import RandomResizedCrop, transforms

from turbomim.pipeline.decoding.crop import Crop, CropKind
from turbomim.pipeline.decoding.crop_draws import Inputs, window_starts
from turbomim.pipeline.decoding.dali import CropGraph
from turbomim.pipeline.decoding.decode import decode
from turbomim.pipeline.decoding.windows import HostWindows
from turbomim.pipeline.tars.store import Interpolation


def encode(image: Image.Image, extension: str, **options: Any) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    image.save(buffer, extension, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def run_graph(
    images: list[NDArray[np.uint8]],
    inputs: Inputs,
    size: int,
    crop: CropKind = "src",
    interpolation: Interpolation = "bicubic",
) -> NDArray[np.uint8]:
    settings = Crop(kind=crop, size=size, interpolation=interpolation)
    graph = CropGraph(settings, batch=len(images), device="cpu", threads=2, prefetch=1)
    graph.feed([decode(image) for image in images], inputs)
    out: NDArray[np.uint8] = graph.take().numpy()
    return out


def run_windows(
    images: list[NDArray[np.uint8]], inputs: Inputs, size: int, interpolation: Interpolation = "bicubic"
) -> NDArray[np.uint8]:
    """Crop as the loader does on a CPU."""
    crop = Crop(size=size, interpolation=interpolation)
    windows = HostWindows(crop, device="cpu", threads=2)
    windows.feed(images, inputs)
    out: NDArray[np.uint8] = windows.take().numpy()
    windows.close()
    return out


def by_torchvision(
    encoded: NDArray[np.uint8],
    word_2: NDArray[np.int64],
    flip: int,
    size: int,
    interpolation: Interpolation = "bicubic",
) -> NDArray[np.float32]:
    image = Image.open(io.BytesIO(encoded.tobytes())).convert("RGB")
    image = tv.resize(image, size, tv.InterpolationMode(interpolation), antialias=True)
    y, x = window_starts(word_2, np.array([image.height, image.width]), size)
    image = tv.crop(tv.pad(image, 4, padding_mode="reflect"), y + 4, x + 4, size, size)
    return np.asarray(tv.hflip(image) if flip else image, np.float32)


def by_definition(
    encoded: NDArray[np.uint8],
    word_2: NDArray[np.int64],
    flip: int,
    size: int,
    interpolation: Interpolation = "bicubic",
) -> NDArray[np.float32]:
    image = Image.open(io.BytesIO(encoded.tobytes())).convert("RGB")
    width, height = tv.resize(image, size, tv.InterpolationMode.NEAREST).size
    y, x = window_starts(word_2, np.array([height, width]), size) + 4
    resized = np.pad(
        resize_in_float(image, height, width, interpolation), ((4, 4), (4, 4), (0, 0)), mode="reflect"
    )
    window = resized[y : y + size, x : x + size].clip(0, 255)
    return np.asarray(window[:, ::-1] if flip else window, np.float32)


def resize_in_float(
    image: Image.Image, height: int, width: int, interpolation: Interpolation
) -> NDArray[np.float32]:
    """Resize with the edge repeated, neither rounded nor clipped."""
    # the wider filter, bicubic, reaches 2 pixels, times the scale, past the edge
    edge = int(2 * max(image.width / width, image.height / height, 1)) + 2
    pixels = np.pad(np.asarray(image, np.float32), ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    box = (edge, edge, edge + image.width, edge + image.height)
    resampling = Image.Resampling[interpolation.upper()]
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), resampling, box=box))
        for channel in pixels.transpose(2, 0, 1)
    ]
    return np.stack(channels, -1)


class _Words:
    """Stands in for torch inside torchvision's search of a window: each draw takes the word it should."""

    def __init__(self, words: list[int]) -> None:
        self.shapes: Iterator[int] = iter(words[:20])
        self.places: Iterator[int] = iter(words[20:])
        self.log, self.exp = torch.log, torch.exp

    def tensor(self, numbers: list[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.float64)

    def empty(self, _count: int) -> SimpleNamespace:
        return SimpleNamespace(uniform_=self.uniform)

    def uniform(self, low: float, high: float) -> torch.Tensor:
        return torch.as_tensor(low + (high - low) * next(self.shapes) / 2**32, dtype=torch.float64)

    def randint(self, low: int, high: int, size: tuple[int]) -> torch.Tensor:
        return torch.tensor(low + ((high - low) * next(self.places) >> 32))


def rrc_window_by_torchvision(
    words: list[int], height: int, width: int, scale: float
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the window that 22 CROP words give."""
    image = torch.empty(3, height, width, device="meta")
    with patch.object(transforms, "torch", _Words(words)):
        top, left, rows, columns = RandomResizedCrop.get_params(image, [scale, 1.0], [3 / 4, 4 / 3])
    return top, left, rows, columns


def rrc_by_torchvision(
    encoded: NDArray[np.uint8],
    window: tuple[int, int, int, int],
    flip: int,
    size: int,
    interpolation: Interpolation = "bicubic",
) -> NDArray[np.float32]:
    image = Image.open(io.BytesIO(encoded.tobytes())).convert("RGB")
    image = tv.resized_crop(image, *window, [size, size], tv.InterpolationMode(interpolation), antialias=True)
    return np.asarray(tv.hflip(image) if flip else image, np.float32)


def rrc_by_definition(
    encoded: NDArray[np.uint8],
    window: tuple[int, int, int, int],
    flip: int,
    size: int,
    interpolation: Interpolation = "bicubic",
) -> NDArray[np.float32]:
    image = Image.open(io.BytesIO(encoded.tobytes())).convert("RGB")
    crop = resize_in_float(tv.crop(image, *window), size, size, interpolation).clip(0, 255)
    return crop[:, ::-1] if flip else crop
