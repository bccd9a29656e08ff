"""RandAugment beside the steps: threads change a loader's next batches while a step uses an earlier one.

Images are the loader's crops, which are square.  Shapes: B samples, C colours, H W pixels.
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

    words (B,) uint32 in host memory: the random word that each sample's erasing is drawn from.
    """

    words_B: NDArray[np.uint32]


class _Running(NamedTuple):
    """A batch whose images are being changed, in host memory, and what its loader did up to it."""

    batch: Augmented
    futures: list[Future[None]]
    stats: LoaderStats


class AugmentAhead(Closing, Iterator[Augmented]):
    """Batches of an endless loader, their images changed; a context manager, which closes the loader too.

    policy: timm's, empty for none; device: the loader's; threads: that change images; ahead: batches being
    changed while one is used.  next() uses Python's and numpy's global generators: call it from one thread.
    Raises UserError for a sample that has no label or cannot be changed, and the loader's, only when its
    batch is reached; any other error at once.
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
        # loading, the copy to the CPU and the copy back; the steps are on torch's current stream
        self._side_stream = torch.cuda.Stream() if device.type == "cuda" else None
        self._running: deque[_Running] = deque()
        self._error: UserError | None = None
        self._stats = loader.stats
        self._wait_s = 0.0

    def __next__(self) -> Augmented:
        try:
            self._fill()
            if not self._running and self._error is not None:
                raise self._error
            return self._hand_out(self._running.popleft())
        except BaseException:
            # its batch is lost, and a later next() would silently give the one after it
            self.close()
            raise

    @property
    def stats(self) -> LoaderStats:
        """What the loader did up to the last batch handed out, and the wait for drawing and for threads."""
        return dataclasses.replace(self._stats, augment_wait_s=self._wait_s)

    def close(self) -> None:
        """End every thread, and the loader; batches handed out stay valid."""
        self._pool.shutdown(cancel_futures=True)
        self._running.clear()
        self._loader.close()

    def _fill(self) -> None:
        """Start batches until the one to hand out and `ahead` more are under way, or the loader fails."""
        while self._error is None and len(self._running) < 1 + self._ahead:
            try:
                self._running.append(self._begin())
            except UserError as error:
                # kept for its turn: the run may end with the batches before it
                self._error = error

    def _begin(self) -> _Running:
        """Take a batch from the loader and start to change its images."""
        with torch.cuda.stream(self._side_stream):
            batch = next(self._loader)
            images_BHWC = batch.images_BHWC
            if self._policy:
                # from a GPU into pinned memory, without a wait; on a CPU it stays the batch's own memory
                images_BHWC = images_BHWC.to("cpu", non_blocking=True)
            elif self._side_stream is not None:
                # DALI may own the images, not the labels, and reuses the memory in this stream's order alone
                images_BHWC = images_BHWC.clone()
            # cpu() waits for this stream, so also for the images that the threads read, and for no step
            labels_B, epochs_B, ids_B = (
                torch.stack([batch.labels_B, batch.epochs_B, batch.ids_B]).cpu().numpy()
            )
        if labels_B.min() < 0:
            sample = self._split.locate(int(ids_B[labels_B.argmin()]))
            raise UserError(
                f"{self._split.place}: {sample} has no label: make the train split from a folder with a "
                "folder of images a class, or from a list with labels"
            )
        words_B2 = draw_u32(self._seed, epochs_B, ids_B, AUGMENT, 2)
        futures = []
        begun = time.perf_counter()
        if self._policy:
            changes_B = draw_changes(self._policy, images_BHWC.shape[1], words_B2[:, 0])
            for places in np.array_split(np.arange(len(ids_B)), self._threads):
                futures.append(self._pool.submit(self._change, images_BHWC.numpy(), ids_B, changes_B, places))
        self._wait_s += time.perf_counter() - begun
        augmented = Augmented(
            images_BHWC=images_BHWC,
            labels_B=batch.labels_B,
            ids_B=batch.ids_B,
            epochs_B=batch.epochs_B,
            position=batch.position,
            words_B=words_B2[:, 1],
        )
        return _Running(augmented, futures, self._loader.stats)

    def _change(
        self,
        images_BHWC: NDArray[np.uint8],
        ids_B: NDArray[np.int64],
        changes_B: list[Changes],
        places: NDArray[np.int64],
    ) -> None:
        """Change the images at some places of a batch."""
        for place in places:
            # an error of memory blames neither the image nor the policy, any other one both
            with no_image_to_blame("RandAugment could not change an image", MORE_MEMORY):
                try:
                    apply_changes(images_BHWC[place], changes_B[place])
                except MemoryError:
                    raise
                except Exception as error:
                    reason = one_line_with_class(error)
                    raise UserError(
                        f"{self._split.place}: {self._split.locate(int(ids_B[place]))}: RandAugment "
                        f"{self._policy!r} failed ({reason}): give another --finetune.rand_augment"
                    ) from error

    def _hand_out(self, running: _Running) -> Augmented:
        """Wait for the threads of a batch, and return it on the loader's device."""
        begun = time.perf_counter()
        for future in running.futures:
            future.result()
        self._wait_s += time.perf_counter() - begun
        self._stats, batch = running.stats, running.batch
        if self._side_stream is None:
            return batch
        # `to_gpu` lets the step's stream wait for the copy; all that `_begin` started there is done
        images_BHWC = to_gpu(batch.images_BHWC, self._side_stream) if self._policy else batch.images_BHWC
        for tensor in (images_BHWC, batch.labels_B, batch.ids_B, batch.epochs_B):
            # made on the side stream: torch must not reuse the memory while a step reads it
            tensor.record_stream(torch.cuda.current_stream())
        return dataclasses.replace(batch, images_BHWC=images_BHWC)
