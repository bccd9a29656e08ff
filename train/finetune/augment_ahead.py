"""RandAugment beside the steps: a loader's batches, changed by threads while an earlier one is used.

Shapes: B samples, C colours, H W pixels.
"""

# torch does not type its streams
# mypy: allow-untyped-calls

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.failures import no_image_to_blame
from turbomim.pipeline.decoding.windows import to_gpu
from turbomim.pipeline.loader import MORE_MEMORY, Loader, LoaderStats
from turbomim.pipeline.stream.philox import AUGMENT, draw_u32
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError, one_line_with_class
from turbomim.pipeline.tars.split import Split
from turbomim.train.finetune.rand_augment import Changes, apply_changes, draw_changes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Augmented(Batch):
    """A micro-batch whose images went through RandAugment; all of its samples have a label.

    words (B,) uint32 in host memory: what each sample's random erasing is drawn from.
    """

    words_B: NDArray[np.uint32]


class _Running(NamedTuple):
    """A batch whose images are being changed, in host memory, and what its loader did up to it."""

    batch: Augmented
    parts: list[Future[None]]
    stats: LoaderStats


class AugmentAhead(Closing, Iterator[Augmented]):
    """Batches of a loader with their images changed, a few under way; a context manager, of the loader too.

    policy: timm's, empty for none; device: the loader's; threads: that change images; ahead: batches being
    changed while one is used.  Whoever takes batches draws from the global generators, see `draw_changes`.
    Raises UserError for a sample that has no label or cannot be changed, and the loader's, each when its own
    batch is asked for; any other error as soon as it is met.
    """

    def __init__(
        self,
        loader: Loader,
        split: Split,
        *,
        policy: str,
        seed: int,
        device: torch.device,
        threads: int,
        ahead: int,
    ) -> None:
        self._loader, self._split, self._policy, self._seed = loader, split, policy, seed
        self._threads, self._ahead = threads, ahead if policy else 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="turbomim-augment")
        # batches come, go down and up again beside the steps, which are on torch's current stream
        self._copies = torch.cuda.Stream() if device.type == "cuda" else None
        self._running: deque[_Running] = deque()
        self._error: UserError | None = None
        self._stats = loader.stats
        self._wait_s = 0.0

    def __next__(self) -> Augmented:
        try:
            while self._error is None and len(self._running) <= self._ahead:
                try:
                    self._running.append(self._begin())
                except UserError as error:
                    # whoever takes batches may need none but those before it
                    self._error = error
            if not self._running and self._error is not None:
                raise self._error
            return self._end(*self._running.popleft())
        except BaseException:
            # going on would skip a batch without a word
            self.close()
            raise

    @property
    def stats(self) -> LoaderStats:
        """What the loader did up to the last batch handed out, and the wait for drawing and changing."""
        return dataclasses.replace(self._stats, augment_wait_s=self._wait_s)

    def close(self) -> None:
        """End every thread, and the loader; batches handed out stay valid."""
        self._pool.shutdown(cancel_futures=True)
        self._running.clear()
        self._loader.close()

    def _begin(self) -> _Running:
        """Take a batch from the loader and start to change its images."""
        with torch.cuda.stream(self._copies):
            batch = next(self._loader)
            images_BHWC = batch.images_BHWC
            if self._policy:
                # from a GPU into pinned memory, without a wait; in host memory it is the same tensor
                images_BHWC = images_BHWC.to("cpu", non_blocking=True)
            elif self._copies is not None:
                # DALI takes its memory back in the order of this stream, while the steps use another
                images_BHWC = images_BHWC.clone()
            # waits for what comes before it on this stream, and for none of the steps
            labels_B, epochs_B, ids_B = (
                torch.stack([batch.labels_B, batch.epochs_B, batch.ids_B]).cpu().numpy()
            )
        if labels_B.min() < 0:
            sample = self._split.locate(int(ids_B[labels_B.argmin()]))
            raise UserError(
                f"{self._split.path}: {sample} has no label: make the train split from a folder with a "
                "folder of images a class"
            )
        words_B2 = draw_u32(self._seed, epochs_B, ids_B, AUGMENT, 2)
        parts = []
        begun = time.perf_counter()
        if self._policy:
            changes_B = draw_changes(self._policy, images_BHWC.shape[1], words_B2[:, 0])
            for places in np.array_split(np.arange(len(ids_B)), self._threads):
                parts.append(self._pool.submit(self._change, images_BHWC.numpy(), ids_B, changes_B, places))
        self._wait_s += time.perf_counter() - begun
        augmented = Augmented(
            images_BHWC=images_BHWC,
            labels_B=batch.labels_B,
            ids_B=batch.ids_B,
            epochs_B=batch.epochs_B,
            position=batch.position,
            words_B=words_B2[:, 1],
        )
        return _Running(augmented, parts, self._loader.stats)

    def _change(
        self,
        images_BHWC: NDArray[np.uint8],
        ids_B: NDArray[np.int64],
        changes_B: list[Changes],
        places: NDArray[np.int64],
    ) -> None:
        """Change the images at some places of a batch."""
        for place in places:
            with no_image_to_blame("RandAugment could not change an image", MORE_MEMORY):
                try:
                    apply_changes(images_BHWC[place], changes_B[place])
                except MemoryError:
                    raise
                except Exception as error:
                    reason = one_line_with_class(error)
                    raise UserError(
                        f"{self._split.path}: {self._split.locate(int(ids_B[place]))}: RandAugment "
                        f"{self._policy!r} failed ({reason}): give another --finetune.rand_augment"
                    ) from error

    def _end(self, batch: Augmented, parts: list[Future[None]], stats: LoaderStats) -> Augmented:
        """Wait for a batch, and hand it out on the loader's device."""
        begun = time.perf_counter()
        for part in parts:
            part.result()
        self._wait_s += time.perf_counter() - begun
        self._stats = stats
        if self._copies is None:
            return batch
        images_BHWC = to_gpu(batch.images_BHWC, self._copies) if self._policy else batch.images_BHWC
        for made in (images_BHWC, batch.labels_B, batch.ids_B, batch.epochs_B):
            # on the other stream, which must not take its memory while a step uses it
            made.record_stream(torch.cuda.current_stream())
        return dataclasses.replace(batch, images_BHWC=images_BHWC)
