"""The simple resized crop on the host: decoded, resized by torch, cut by numpy, a few images at a time.

DALI's CPU operators take five times as long for the resize and as long again for slice and flip, which are
copies of rows; on a GPU they are the ones that are used (dali.py), but for pixels that the host holds without
decoding, or has decoded to the crop's size: of these a batch of windows is one copy from pinned memory.
Shape suffixes: B samples, H W pixels, S the crop's side, C channels.
"""

import math
from collections import deque
from concurrent.futures import Future
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import Inputs, resized_sides, window_starts
from turbomim.pipeline.decoding.decode import BadImages, Pixels, decode_or_say
from turbomim.pipeline.decoding.resize import resize, resize_region
from turbomim.pipeline.reading.memory import Memory
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.threads import serial_pool
from turbomim.pipeline.tars.store import Kind

# an image of more windows than this is resized only where its window lies
PANORAMA: Final = 16
# images that a thread decodes before it resizes and cuts them: few, for the memory they take
GROUP: Final = 8

# windows being filled, and the threads' parts of that: reasons, by place, of images that do not decode
_Cutting = tuple[Tensor, list[Future[dict[int, str]]]]


class HostWindows:
    """Batches of windows in order, a few under way: the counterpart of `dali.CropGraph`.

    crop: of kind "src"; store: "raw" images are pixels, "resized" ones JPEGs, of a short side of the crop's;
    "original" ones are resized here; device: "cpu" or "cuda"; threads: each decodes, resizes and cuts.
    """

    def __init__(
        self,
        crop: Crop,
        *,
        store: Kind = "original",
        device: str,
        threads: int,
    ) -> None:
        self._crop = crop
        self._stored = store != "original"
        # a copy is so short that a second thread waits for the interpreter more than it copies
        self._threads = 1 if store == "raw" else threads
        self._pool = serial_pool(self._threads, "turbomim-decode")
        self._copies = torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]
        self._memory = Memory()
        self._batches: deque[_Cutting] = deque()

    def feed(self, images: list[Pixels], inputs: Inputs, *, again: bool = False) -> None:
        """Start a batch: encoded images, (bytes,) each, or pixels, (H, W, 3) each; inputs of `draw_crops`.

        again: it takes the place of the one that failed, which is the oldest.
        """
        shape = (len(images), self._crop.size, self._crop.size, 3)
        if self._copies is None:
            windows_BSSC = torch.from_numpy(self._memory.take(math.prod(shape)).reshape(shape))
        else:
            windows_BSSC = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        parts = np.array_split(np.arange(len(images)), max(self._threads, -(-len(images) // GROUP)))
        cut = [self._pool.submit(self._cut, places, images, inputs, windows_BSSC) for places in parts]
        if again:
            self._batches.appendleft((windows_BSSC, cut))
        else:
            self._batches.append((windows_BSSC, cut))

    def take(self) -> Tensor:
        """Wait for the oldest batch; return its images_BHWC, uint8, contiguous, on the device.

        Raises BadImages where an image does not decode, UserError if a stored side is not the crop's.
        """
        windows_BSSC, parts = self._batches.popleft()
        reasons = {place: reason for part in parts for place, reason in part.result().items()}
        if reasons:
            raise BadImages(reasons)
        return windows_BSSC if self._copies is None else to_gpu(windows_BSSC, self._copies)

    def close(self) -> None:
        """Wait for what is under way, drop the rest, end the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _cut(
        self, places: NDArray[np.int64], images: list[Pixels], inputs: Inputs, windows_BSSC: Tensor
    ) -> dict[int, str]:
        """Decode some images, if they are not, and cut their windows; return why others do not decode."""
        decoded: dict[int, Pixels] = {}
        reasons: dict[int, str] = {}
        for place in places.tolist():
            image = decode_or_say(images[place])
            if isinstance(image, str):
                reasons[place] = image
            else:
                decoded[place] = image
        if reasons or not decoded:
            # the batch is made again, with other images in their places
            return reasons
        sides_B2 = np.array([image.shape[:2] for image in decoded.values()])
        if self._stored:
            self._check_stored(sides_B2)
        else:
            sides_B2 = resized_sides(sides_B2, sides_B2.min(1, keepdims=True), self._crop.size)
        starts_B2 = window_starts(inputs["words"][places], sides_B2, self._crop.size)
        for row, (place, image) in enumerate(decoded.items()):
            pixels, start_2 = resize_for_window(image, sides_B2[row], starts_B2[row], self._crop)
            cut_window(pixels, start_2, bool(inputs["flips"][place]), windows_BSSC[place])
        return reasons

    def _check_stored(self, sides_B2: NDArray[np.int64]) -> None:
        (others,) = np.nonzero(sides_B2.min(1) != self._crop.size)
        if len(others):
            height, width = sides_B2[others[0]].tolist()
            raise UserError(
                f"a photograph of the store has {width} x {height} pixels, its short side is not the "
                f"{self._crop.size} of the crop: remake the split with `turbomim shard make`"
            )


def resize_for_window(
    pixels_HWC: Pixels,
    sides_2: NDArray[np.int64],
    start_2: NDArray[np.int64],
    crop: Crop,
) -> tuple[Pixels, NDArray[np.int64]]:
    """Resize an image to (height, width) `sides`; of a panorama, only what the window at `start` shows.

    Returns the pixels and where the window starts in them.
    """
    height, width = sides_2.tolist()
    if height * width <= PANORAMA * crop.size**2:
        return resize(pixels_HWC, height, width, crop.interpolation), start_2
    low_2, high_2 = np.maximum(start_2, 0), np.minimum(start_2 + crop.size, sides_2)
    region = (int(low_2[0]), int(low_2[1]), int(high_2[0]), int(high_2[1]))
    return resize_region(pixels_HWC, height, width, region, crop.interpolation), start_2 - low_2


def cut_window(pixels_HWC: Pixels, start_2: NDArray[np.int64], flip: bool, window_SSC: Tensor) -> None:
    """Copy the window that starts at (y, x) into `window`, reflected where it lies outside, flipped or not.

    At most half of the window lies outside, with the edge pixel not repeated (reflect_101).
    """
    size = len(window_SSC)
    out = window_SSC.numpy()
    low_2 = np.maximum(start_2, 0)
    high_2 = np.minimum(start_2 + size, pixels_HWC.shape[:2])
    (top, left), (bottom, right) = (low_2 - start_2).tolist(), (high_2 - start_2).tolist()
    (y, x), (y_end, x_end) = low_2.tolist(), high_2.tolist()
    out[top:bottom, left:right] = pixels_HWC[y:y_end, x:x_end]
    for lines, first, last in ((out, top, bottom), (out.swapaxes(0, 1), left, right)):
        lines[:first] = lines[first + 1 : 2 * first + 1][::-1]
        lines[last:] = lines[2 * last - size - 1 : last - 1][::-1]
    if flip:
        # torch's flip has a fast path for channels-last bytes; numpy's reversed copy takes six times as long
        window_1CSS = window_SSC.permute(2, 0, 1)[None]
        window_1CSS.copy_(window_1CSS.flip(3))


def to_gpu(windows_BSSC: Tensor, copies: torch.cuda.Stream) -> Tensor:
    """Copy pinned windows to the GPU on the stream `copies`, ordered before what torch's current one does."""
    with torch.cuda.stream(copies):
        images_BHWC = windows_BSSC.to("cuda", non_blocking=True)
    torch.cuda.current_stream().wait_stream(copies)
    images_BHWC.record_stream(torch.cuda.current_stream())
    return images_BHWC
