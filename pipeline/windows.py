"""The simple resized crop out of a store whose short sides are resized already, on the host.

A window is a copy of rows, about 20 µs with its flip; DALI's CPU operators take 170 µs for it, so here it is
numpy's and torch's.  On a GPU the batch of windows is one copy from pinned memory: no more pixels travel than
are used.  Shape suffixes: B samples, H W pixels, S the crop's side, C channels.
"""

# DALI types its operators but not its Pipeline
# mypy: allow-untyped-calls

import math
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turbomim.pipeline.crops import Inputs, src_offsets
from turbomim.pipeline.decode import decoding_pipeline, without_webp_exif
from turbomim.pipeline.memory import Memory

Pixels = NDArray[np.uint8]


class StoredWindows:
    """Batches of windows in order, a few under way: the counterpart of `dali.CropGraph`.

    size: the crop's side and the store's short side; encoded: whether images are JPEGs (resized) or pixels
    (raw); device: "cpu" or "cuda"; threads: of the decoder, and as many that cut; prefetch: decoded ahead.
    """

    def __init__(
        self, size: int, *, encoded: bool, batch: int, device: str, threads: int, prefetch: int
    ) -> None:
        self._size = size
        self._device = device
        self._threads = threads
        self._decoding = (
            decoding_pipeline(batch=batch, threads=threads, prefetch=prefetch) if encoded else None
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="turbomim-cut")
        self._copies = torch.cuda.Stream() if device == "cuda" else None
        self._memory = Memory()
        self._inputs: deque[Inputs] = deque()
        self._cut: deque[tuple[Tensor, list[Future[None]]]] = deque()

    def feed(self, images: list[Pixels], inputs: Inputs) -> None:
        """Queue a batch: encoded images, (bytes,) each, or pixels, (H, W, 3) each; inputs of `crops.draw`."""
        if self._decoding is None:
            self._cut.append(self._start(images, inputs))
            return
        self._decoding.feed_input("images", [without_webp_exif(image) for image in images])
        self._inputs.append(inputs)

    def schedule(self) -> None:
        """Start the next batch, if it has to be decoded; the first call starts `prefetch` of them."""
        if self._decoding is not None:
            self._decoding.schedule_run()

    def take(self) -> Tensor:
        """Wait for the oldest batch; return its images_BHWC, uint8, contiguous, on the device.

        Raises RuntimeError if DALI failed to decode it.
        """
        if self._decoding is not None:
            (pixels,) = self._decoding.outputs()
            # views: `at` copies
            decoded = [np.asarray(pixels[place]) for place in range(len(pixels))]
            self._cut.append(self._start(decoded, self._inputs.popleft()))
        windows_BSSC, parts = self._cut.popleft()
        for part in parts:
            part.result()
        return windows_BSSC if self._copies is None else _to_gpu(windows_BSSC, self._copies)

    def close(self) -> None:
        """End the threads that cut."""
        self._pool.shutdown(cancel_futures=True)

    def _start(self, images: list[Pixels], inputs: Inputs) -> tuple[Tensor, list[Future[None]]]:
        """Let every thread cut a part of a batch."""
        sides_B2 = np.array([image.shape[:2] for image in images])
        starts_B2 = src_offsets(inputs["words"], sides_B2, self._size)
        shape = (len(images), self._size, self._size, 3)
        if self._device == "cuda":
            windows_BSSC = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        else:
            windows_BSSC = torch.from_numpy(self._memory.take(math.prod(shape)).reshape(shape))
        flips_B = inputs["flips"]

        def cut(places: NDArray[np.int64]) -> None:
            for place in places:
                cut_window(images[place], starts_B2[place], bool(flips_B[place]), windows_BSSC[place])

        parts = np.array_split(np.arange(len(images)), self._threads)
        return windows_BSSC, [self._pool.submit(cut, places) for places in parts]


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
        # torch's flip has a fast path for channels-last bytes; numpy's reversed copy takes ten times as long
        window_CSS = window_SSC.permute(2, 0, 1)
        window_CSS.copy_(window_CSS[None].flip(3)[0])


def _to_gpu(windows_BSSC: Tensor, copies: torch.cuda.Stream) -> Tensor:
    """Copy pinned windows to the GPU on the stream `copies`, ordered before what torch's current one does."""
    with torch.cuda.stream(copies):
        images_BHWC = windows_BSSC.to("cuda", non_blocking=True)
    torch.cuda.current_stream().wait_stream(copies)
    images_BHWC.record_stream(torch.cuda.current_stream())
    return images_BHWC
