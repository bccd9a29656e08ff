"""What does RandAugment hold up?  `python -m turbomim.benchmarks.loader.rand_augment [--img-per-s 1000]`.

An image on one thread: drawn, which the loop's thread does, and changed, which others do.  Then batches by a
loop whose step only waits, as that of a GPU does to the host, a millisecond at a time, after each of which it
wants the interpreter back, and which alone would take so many img/s.  Entrants, in turn in every round: the
step alone (the ceiling); images changed in the loop's thread between the steps (the baseline); beside the
steps on 1, 2 … threads.  Images are noise at an eighth of the size, enlarged.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional

from turbomim.benchmarks.timing import alternate, emit, machine, report
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.loader import LoaderStats
from turbomim.train.finetune.augment_ahead import AugmentAhead
from turbomim.train.finetune.rand_augment import apply_changes, draw_changes
from turbomim.train.machine.processor import cores
from turbomim.train.settings.finetune import FinetuneSettings

POLICY = FinetuneSettings().rand_augment
SIZE = 224
# steps of an entrant in a round, and batches ahead of them
STEPS, AHEAD = 16, 2


class Source:
    """In place of a loader: the same images in every batch, of new samples."""

    def __init__(self, images_BHWC: torch.Tensor) -> None:
        self.images_BHWC, self.position, self.stats = images_BHWC, 0, LoaderStats()

    def __next__(self) -> Batch:
        ids_B = torch.arange(self.position, self.position + len(self.images_BHWC))
        self.position += len(ids_B)
        zeros_B = torch.zeros_like(ids_B)
        images_BHWC = self.images_BHWC.clone()
        return Batch(
            images_BHWC=images_BHWC, labels_B=zeros_B, ids_B=ids_B, epochs_B=zeros_B, position=int(ids_B[0])
        )

    def close(self) -> None:
        """Nothing to close."""


def enlarged_noise(images: int) -> torch.Tensor:
    """Images (B, H, W, C) uint8."""
    small_BCHW = torch.rand(images, 3, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(0))
    large_BCHW = functional.interpolate(small_BCHW, size=SIZE, mode="bicubic").clamp(0, 1)
    return (255 * large_BCHW).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def step(milliseconds: int) -> None:
    """Wait as the host does for a GPU."""
    for _ in range(milliseconds):
        time.sleep(0.001)


def alone(images_BHWC: torch.Tensor, milliseconds: int) -> None:
    """Steps without any change."""
    source = Source(images_BHWC)
    for _ in range(STEPS):
        next(source)
        step(milliseconds)


def between(images_BHWC: torch.Tensor, milliseconds: int) -> None:
    """Images changed by the loop's thread."""
    source = Source(images_BHWC)
    for _ in range(STEPS):
        batch = next(source)
        words_B = batch.ids_B.numpy().astype(np.uint32)
        for image_HWC, changes in zip(
            batch.images_BHWC.numpy(), draw_changes(POLICY, SIZE, words_B), strict=True
        ):
            apply_changes(image_HWC, changes)
        step(milliseconds)


def beside(images_BHWC: torch.Tensor, milliseconds: int, threads: int) -> None:
    """Images changed by other threads; the first batch of a round is waited for."""
    with AugmentAhead(
        cast(Any, Source(images_BHWC)),
        # it names samples that fail
        cast(Any, None),
        policy=POLICY,
        seed=0,
        device=torch.device("cpu"),
        threads=threads,
        ahead=AHEAD,
    ) as ahead:
        for _ in range(STEPS):
            next(ahead)
            step(milliseconds)


def an_image(images_BHWC: torch.Tensor) -> dict[str, float]:
    """Microseconds of processor time that an image takes, by part."""
    words_B = np.arange(len(images_BHWC), dtype=np.uint32)
    pixels_BHWC = images_BHWC.numpy().copy()
    begun = time.thread_time()
    changes_B = draw_changes(POLICY, SIZE, words_B)
    drawn = time.thread_time()
    for image_HWC, changes in zip(pixels_BHWC, changes_B, strict=True):
        apply_changes(image_HWC, changes)
    scale = 1e6 / len(words_B)
    return {
        "drawn_us": round(scale * (drawn - begun), 1),
        "changed_us": round(scale * (time.thread_time() - drawn), 1),
    }


def main() -> None:
    """Print one JSON line for an image, and one an entrant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--img-per-s", type=float, default=1000.0, help="of the step alone")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, 2, cores()}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    images_BHWC, facts = enlarged_noise(options.batch), {"cores": cores(), **machine()}
    # caches and timm's modules
    an_image(images_BHWC)
    emit(json.dumps({"name": "an image", "side": SIZE, **an_image(images_BHWC), **facts}), options.out)
    milliseconds = round(1000 * options.batch / options.img_per_s)
    entrants: dict[str, Callable[[], object]] = {
        "between the steps": partial(between, images_BHWC, milliseconds),
        "step alone": partial(alone, images_BHWC, milliseconds),
    }
    for threads in options.threads:
        entrants[f"beside, {threads} threads"] = partial(beside, images_BHWC, milliseconds, threads)
    seconds = alternate(entrants, options.rounds)
    images = STEPS * options.batch
    for name, times in seconds.items():
        rate = round(images / float(np.median(times)))
        line = report(name, times, images, seconds["between the steps"], img_per_s=rate, **facts)
        emit(line, options.out)


if __name__ == "__main__":
    main()
