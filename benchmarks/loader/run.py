"""One loader in a process of its own: make its set, check what it gives, or time it.  Prints a JSON line.

Shape suffixes: B samples, H W pixels, C channels.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from turbomim.benchmarks.loader.job import Job, peer_module, sorted_files
from turbomim.pipeline.decoding.crop import PAD
from turbomim.pipeline.decoding.crop_draws import resized_sides, window_starts

# mean over a picture of |uint8 - float definition|; another window or an unflipped picture is far above
LIMIT: Final = 8.0

# pictures of the first batch that are compared
CHECKED: Final = 8

# readings of the memory after the timing, and the seconds between them
READINGS, PAUSE_S = 4, 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """How long to time: `discard` batches first, then until both seconds and images are reached."""

    discard: int
    seconds: float
    images: int


def definition(
    path: Path, size: int, start: NDArray[np.int64] | None = None, flip: bool = False
) -> NDArray[np.float32]:
    """The crop as the workload defines it, in float: (H, W, 3) in [0, 255].

    start: (y, x) of the window in the resized photograph; None: in its centre, rounded down.
    """
    with Image.open(path) as image:
        pixels_HWC = torch.from_numpy(np.array(image.convert("RGB"))).float()
    sides = np.array(pixels_HWC.shape[:2])
    sides = resized_sides(sides, sides.min(), size)
    resized = torch.nn.functional.interpolate(
        pixels_HWC.permute(2, 0, 1)[None], tuple(sides.tolist()), mode="bicubic", antialias=True
    ).clamp(0, 255)
    padded = torch.nn.functional.pad(resized, (PAD,) * 4, mode="reflect")[0].permute(1, 2, 0)
    y, x = ((sides - size) // 2 if start is None else start) + PAD
    window = padded[y : y + size, x : x + size].numpy()
    return window[:, ::-1] if flip else window


def check(module: ModuleType, job: Job, originals: Sequence[Path]) -> float:
    """Return the mean deviation of the first pictures from `definition`, of 255.

    Raises ValueError: a wrong shape or type, or a picture whose deviation is above LIMIT.
    """
    job = replace(job, train=False)
    if hasattr(module, "drawn"):
        images, ids_B, words_B2, flips_B = module.drawn(job)
    else:
        images, ids_B = next(module.batches(job)), np.arange(job.batch)
        words_B2, flips_B = None, np.zeros(job.batch, bool)
    images_BHWC = channels_last(images, job)
    deviations: list[float] = []
    for place, sample in enumerate(ids_B.tolist()):
        with Image.open(originals[sample]) as image:
            sides = np.array([image.height, image.width])
        sides = resized_sides(sides, sides.min(), job.size)
        # where half a pixel is left over, libraries round the centre up, down or to even
        if words_B2 is None and (sides % 2 != job.size % 2).any():
            continue
        start = None if words_B2 is None else window_starts(words_B2[place].astype(np.int64), sides, job.size)
        expected = definition(originals[sample], job.size, start, bool(flips_B[place]))
        deviations.append(float(np.abs(images_BHWC[place] - expected).mean()))
        if deviations[-1] > LIMIT:
            raise ValueError(
                f"sample {sample} deviates by {deviations[-1]:.1f} of 255 from its definition (limit {LIMIT})"
            )
        if len(deviations) == CHECKED:
            break
    if not deviations:
        raise ValueError("no picture of the first batch could be compared: use a larger batch")
    return float(np.mean(deviations))


def channels_last(images: Tensor, job: Job) -> NDArray[np.uint8]:
    """A batch as (B, H, W, C) on the host.  Raises ValueError if it is no uint8 batch of the job."""
    shape, side = tuple(images.shape), job.size
    if images.dtype != torch.uint8 or shape not in {(job.batch, 3, side, side), (job.batch, side, side, 3)}:
        raise ValueError(
            f"a batch is {images.dtype} of {shape}, not {job.batch} crops of {side} x {side}, uint8"
        )
    pixels: NDArray[np.uint8] = (images.permute(0, 2, 3, 1) if shape[1] == 3 else images).cpu().numpy()
    return pixels


def measure(batches: Iterator[Tensor], stretch: Stretch) -> dict[str, float]:
    """Images a second, CPU seconds a 1,000 images and memory of this process and its children."""
    for _ in range(stretch.discard):
        next(batches)
    wait()
    begun, cpu_begun, images = time.perf_counter(), cpu_seconds(), 0
    while images < stretch.images or time.perf_counter() - begun < stretch.seconds:
        images += len(next(batches))
    wait()
    seconds, cpu = time.perf_counter() - begun, cpu_seconds() - cpu_begun
    return {
        "images_per_s": images / seconds,
        "cpu_s_per_1000": 1000 * cpu / images,
        "memory_mb": memory_while(batches) / 1e6,
        "images": images,
        "seconds": seconds,
    }


def wait() -> None:
    """Let the GPU finish, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def family() -> list[psutil.Process]:
    """This process and all its descendants."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def cpu_seconds() -> float:
    """User and system time of the family, and of its members that ended."""
    total = 0.0
    for process in family():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            # it has just ended, and counts as its parent's
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_while(batches: Iterator[Tensor]) -> int:
    """The highest sum of the family's proportional set sizes, bytes, while batches go on being drawn.

    After the timing, since reading them takes milliseconds; shared pages count once.
    """
    highest = 0
    for _ in range(READINGS):
        begun = time.perf_counter()
        while time.perf_counter() - begun < PAUSE_S:
            next(batches)
        highest = max(highest, sum(process.memory_full_info().pss for process in family()))
    return highest


def main() -> None:
    """`run JSON`: answer one request of `process.ask`."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps(answer(request)), flush=True)
    # threads and workers that a loader left behind would keep this process
    os._exit(0)


def answer(request: dict[str, Any]) -> dict[str, float]:
    """Convert, time or check, by what the request holds beside the peer."""
    module = peer_module(request["peer"])
    if "convert" in request:
        module.convert(sorted_files(Path(request["files"])), Path(request["convert"]), request["cores"])
        return {}
    job = Job.from_json(request["job"])
    if "stretch" in request:
        return measure(iter(module.batches(job)), Stretch(**request["stretch"]))
    return {"deviation": check(module, job, sorted_files(Path(request["originals"])))}


if __name__ == "__main__":
    main()
