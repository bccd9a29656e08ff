"""The loader: a split and a position to batches on the training device, for ever.

sample stream (order.py) -> read ahead (read.py) -> decode, crop, flip (dali.py) -> torch, by DLPack.
A batch is a pure function of split, seed and position: threads, readers and prefetch change nothing in it.
Shape suffixes: B samples, H W pixels, C channels.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from nvidia.dali.pipeline import Pipeline
from torch import Tensor

from turbomim.pipeline.crops import FILTERS, GRAPHS, MIN_SIZE, Crop, Interpolation, draw
from turbomim.pipeline.dali import build_pipeline, feed, find_undecodable, schedule, take
from turbomim.pipeline.errors import UserError
from turbomim.pipeline.order import Turn, check_batches, turns
from turbomim.pipeline.philox import SEEDS
from turbomim.pipeline.read import ReadAhead, Samples
from turbomim.pipeline.shards import Split


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """A micro-batch on the training device; it stays valid as long as it is held.

    images (B, H, W, C) uint8 RGB, contiguous; labels, ids, epochs (B,) int64; position: of its first sample.
    """

    images_BHWC: Tensor
    labels_B: Tensor
    ids_B: Tensor
    epochs_B: Tensor
    position: int


class Loader(Iterator[Batch]):
    """Micro-batches of one rank, endless; a context manager.

    size: pixels of the crop's side; crop: simple ("src") or random ("rrc") resized crop; scale: the least
    share of an image's area that rrc keeps, in (0, 1]; interpolation: the filter of the crop's resize,
    "bicubic" or "bilinear"; global_batch: samples a step, all ranks; micro_batch: samples a batch; start:
    position of the first step; device: "cpu" or "cuda" (torch's current device); threads: DALI's; readers:
    read-ahead threads; prefetch: batches being read and batches being decoded while one is used.
    Raises UserError: arguments that do not fit, a shard that changed, an image that does not decode.
    """

    def __init__(
        self,
        split: Split,
        *,
        size: int,
        crop: Crop = "src",
        scale: float = 0.2,
        interpolation: Interpolation = "bicubic",
        seed: int,
        global_batch: int,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        device: str = "cpu",
        threads: int,
        readers: int,
        prefetch: int = 2,
    ) -> None:
        check_batches(global_batch=global_batch, micro_batch=micro_batch, rank=rank, world=world)
        _check(split, seed=seed, start=start, device=device)
        _check_crop(crop, interpolation, size=size, scale=scale)
        for name, value in (("threads", threads), ("readers", readers), ("prefetch", prefetch)):
            if value < 1:
                raise UserError(f"{name} {value} is below 1: set it to at least 1")
        self._split = split
        self._crop: Crop = crop
        self._scale = scale
        self._seed = seed
        self._device = device
        self._prefetch = prefetch
        stream = turns(
            split.manifest.samples,
            seed,
            start=start,
            global_batch=global_batch,
            micro_batch=micro_batch,
            rank=rank,
            world=world,
        )
        self._running: deque[tuple[Turn, Samples]] = deque()
        self._pipeline: Pipeline | None = build_pipeline(
            crop,
            size,
            interpolation=interpolation,
            batch=micro_batch,
            device=device,
            threads=threads,
            prefetch=prefetch,
        )
        self._ahead = ReadAhead(split, stream, readers=readers, prefetch=prefetch)

    def __next__(self) -> Batch:
        if self._pipeline is None:
            raise RuntimeError("the loader is closed")
        try:
            return self._advance(self._pipeline)
        except BaseException:
            # going on would skip a batch without a word
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every thread and close every file; batches handed out stay valid."""
        self._ahead.close()
        self._running.clear()
        self._pipeline = None

    def _advance(self, pipeline: Pipeline) -> Batch:
        if not self._running:
            for _ in range(self._prefetch):
                self._feed(pipeline)
            schedule(pipeline)
        turn, samples = self._running.popleft()
        try:
            images_BHWC = take(pipeline, self._device)
        except RuntimeError as error:
            self._name_undecodable(turn, samples, error)
            raise
        self._feed(pipeline)
        schedule(pipeline)
        labels_B, ids_B, epochs_B = self._to_device(turn, samples)
        return Batch(
            images_BHWC=images_BHWC, labels_B=labels_B, ids_B=ids_B, epochs_B=epochs_B, position=turn.position
        )

    def _feed(self, pipeline: Pipeline) -> None:
        turn, samples = next(self._ahead)
        feed(pipeline, samples.images, draw(self._crop, self._scale, self._seed, turn))
        self._running.append((turn, samples))

    def _to_device(self, turn: Turn, samples: Samples) -> tuple[Tensor, ...]:
        numbers_3B = torch.from_numpy(np.stack([samples.labels_B, turn.ids_B, turn.epochs_B]))
        if self._device == "cuda":
            # from pageable memory the copy would make the host wait
            numbers_3B = numbers_3B.pin_memory().to("cuda", non_blocking=True)
        return numbers_3B.unbind()

    def _name_undecodable(self, turn: Turn, samples: Samples, error: RuntimeError) -> None:
        """Raise UserError naming the samples that do not decode, which DALI does not; return if all do."""
        failures = find_undecodable(samples.images, self._device)
        if not failures:
            return
        # an epoch's end and the next one's beginning may hold the same sample
        reasons = {int(turn.ids_B[place]): reason for place, reason in failures.items()}
        names = [f"{self._split.locate(sample)} (DALI: {reason})" for sample, reason in reasons.items()]
        more = f" and {len(names) - 1} more in its batch: {', '.join(names[1:4])}" if len(names) > 1 else ""
        raise UserError(
            f"cannot decode {names[0]}{more}, in {str(self._split.path)!r}; "
            "mend or remove the photograph and remake the split with `turbomim shard make`"
        ) from error


def _check(split: Split, *, seed: int, start: int, device: str) -> None:
    """Raise UserError for what the stream cannot serve."""
    if split.manifest.samples < 1:
        raise UserError(f"the split {str(split.path)!r} has no samples: make it from a folder with images")
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed {seed} is outside [0, 2**63): choose a seed in that range")
    if start < 0:
        raise UserError(f"start position {start} is below 0: positions count samples from 0")
    if device not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} is neither 'cpu' nor 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' was asked for, but torch finds no GPU: check the driver or use 'cpu'")


def _check_crop(crop: str, interpolation: str, *, size: int, scale: float) -> None:
    """Raise UserError for what no graph crops."""
    if crop not in GRAPHS:
        raise UserError(f"crop {crop!r} is none of {', '.join(GRAPHS)}: choose one of them")
    if interpolation not in FILTERS:
        raise UserError(
            f"interpolation {interpolation!r} is none of {', '.join(FILTERS)}: choose one of them"
        )
    if not 0 < scale <= 1:
        raise UserError(f"scale {scale} is outside (0, 1]: it is the least share of the image's area")
    if crop == "src" and size < MIN_SIZE:
        raise UserError(f"image size {size} is below {MIN_SIZE}, the least that reflect padding allows")
    if size < 1:
        raise UserError(f"image size {size} is below 1: set it to at least 1 pixel")
