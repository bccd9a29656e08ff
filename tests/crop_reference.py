"""Two references for the simple resized crop, and one run of the graph to compare with them.

`by_torchvision` is the pipeline of the papers, on PIL images.  `by_definition` resizes in float with the same
cubic filter and the photograph's edge repeated: what the loader states.
"""

import io
from typing import Any

import numpy as np
import torchvision.transforms.functional as tv
from numpy.typing import NDArray
from PIL import Image

from turbomim.pipeline.dali import build_pipeline, feed, schedule, src_offsets, take


def encode(image: Image.Image, extension: str, **options: Any) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    image.save(buffer, extension, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def run_graph(
    images: list[NDArray[np.uint8]], words_B2: NDArray[np.int64], flips_B: NDArray[np.int32], size: int
) -> NDArray[np.uint8]:
    pipeline = build_pipeline(size, batch=len(images), device="cpu", threads=2, prefetch=1)
    feed(pipeline, images, words_B2, flips_B)
    schedule(pipeline)
    out: NDArray[np.uint8] = take(pipeline, "cpu").numpy()
    return out


def by_torchvision(
    encoded: NDArray[np.uint8], word_2: NDArray[np.int64], flip: int, size: int
) -> NDArray[np.float32]:
    image = Image.open(io.BytesIO(encoded.tobytes())).convert("RGB")
    image = tv.resize(image, size, tv.InterpolationMode.BICUBIC, antialias=True)
    y, x = src_offsets(word_2[None].astype(np.uint32), np.array([[image.height, image.width]]), size)[0]
    image = tv.crop(tv.pad(image, 4, padding_mode="reflect"), y + 4, x + 4, size, size)
    return np.asarray(tv.hflip(image) if flip else image, np.float32)


def by_definition(
    encoded: NDArray[np.uint8], word_2: NDArray[np.int64], flip: int, size: int
) -> NDArray[np.float32]:
    image = Image.open(io.BytesIO(encoded.tobytes())).convert("RGB")
    width, height = tv.resize(image, size, tv.InterpolationMode.NEAREST).size
    # the filter reaches 2 pixels, times the scale, past the edge
    edge = int(2 * max(image.width / width, image.height / height, 1)) + 2
    pixels = np.pad(np.asarray(image, np.float32), ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    box = (edge, edge, edge + image.width, edge + image.height)
    channels = [
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC, box=box))
        for channel in pixels.transpose(2, 0, 1)
    ]
    y, x = src_offsets(word_2[None].astype(np.uint32), np.array([[height, width]]), size)[0] + 4
    resized = np.pad(np.stack(channels, -1), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    window = resized[y : y + size, x : x + size].clip(0, 255)
    return np.asarray(window[:, ::-1] if flip else window, np.float32)
