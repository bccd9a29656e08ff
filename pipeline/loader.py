"""The loader: a split and a position to batches on the training device, for ever.

sample stream (stream/order.py) -> read ahead (reading/read_ahead.py) -> stand-ins (bad_samples.py) -> decode
(decoding/decode.py, or a GPU), crop and flip (decoding/windows.py on the host, or decoding/dali.py) -> torch.
A batch is a pure function of split, seed and position: threads, readers and prefetch change nothing in it.
Shape suffixes: B samples, H W pixels, C channels.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from turbomim.pipeline.bad_samples import Repair
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.crops import Crop, Interpolation, check_crop, draw
from turbomim.pipeline.decoding.dali import (
    BACKENDS,
    Backend,
    CropGraph,
    DecodedGraph,
    GpuDecoding,
    find_undecodable_on_gpu,
)
from turbomim.pipeline.decoding.decode import BadImages, find_undecodable
from turbomim.pipeline.decoding.failures import failure_reason, no_image_to_blame, of_machine
from turbomim.pipeline.decoding.header import check_header
from turbomim.pipeline.decoding.under_way import Journal, begin
from turbomim.pipeline.decoding.windows import HostWindows
from turbomim.pipeline.loader_checks import (
    check_choice,
    check_counts,
    check_device,
    check_shares,
    check_stream,
)
from turbomim.pipeline.reading.memory import share_heaps
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.reading.shard_files import Samples, ShardFiles, read_samples
from turbomim.pipeline.stream.order import Turn, check_batches, turns
from turbomim.pipeline.stream.window_order import window_turns
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError, to_stderr
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Store

Shuffle = Literal["full", "window"]
SHUFFLES = ("full", "window")
Graph = HostWindows | CropGraph | DecodedGraph
MORE_MEMORY = "use a smaller micro-batch, prefetch or number of threads, or decode = cpu on a GPU"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderStats:
    """What a loader did since it began, on this rank.

    samples: handed out; replaced: of these, stand-ins of samples that cannot be decoded; read_wait_s,
    decode_wait_s and augment_wait_s: seconds its consumer was blocked for reads, for decoding and for what
    changes images after their crop, if anything does.
    """

    samples: int = 0
    replaced: int = 0
    read_wait_s: float = 0.0
    decode_wait_s: float = 0.0
    augment_wait_s: float = 0.0


class _Run(NamedTuple):
    """A batch under way: what was read, and what was fed, with stand-ins."""

    turn: Turn
    read: Samples
    fed: Samples


class Loader(Closing, Iterator[Batch]):
    """Micro-batches of one rank, endless; a context manager.

    size: pixels of the crop's side; crop: simple ("src") or random ("rrc") resized crop; scale: the least
    share of an image's area that rrc keeps, in (0, 1]; interpolation: the filter of the crop's resize,
    "bicubic" or "bilinear"; global_batch: samples a step, all ranks; micro_batch: samples a batch; start:
    position of the first step; device: "cpu" or "cuda" (torch's current device); threads: that decode and
    cut; readers: read-ahead threads; prefetch: batches being read and batches being decoded while one
    is used.
    decode: where photographs are decoded for "cuda", "mixed" or "cpu"; hw_decoder_load: the share of "mixed"
    that the GPU's JPEG engine takes.  shuffle: order of an epoch, of all samples or of `window` shards.
    A sample that cannot be decoded is replaced, see bad_samples.py; max_bad_share, max_bad_row: how many may
    be.  journal: where to say what is being decoded, and which samples must not be.  notify: takes one line
    an event: a sample replaced, a read that is waited for.
    Raises UserError: arguments that do not fit each other or the split's store, a shard that changed, too
    many images that do not decode, an error of the GPU or of memory.
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
        decode: Backend = "mixed",
        hw_decoder_load: float = 0.65,
        shuffle: Shuffle = "full",
        window: int = 16,
        max_bad_share: float = 0.05,
        max_bad_row: int = 100,
        journal: Journal | None = None,
        notify: Callable[[str], None] = to_stderr,
    ) -> None:
        check_batches(global_batch=global_batch, micro_batch=micro_batch, rank=rank, world=world)
        check_stream(split, seed=seed, start=start)
        check_device(device)
        check_counts(
            threads=threads, readers=readers, prefetch=prefetch, window=window, max_bad_row=max_bad_row
        )
        check_shares(hw_decoder_load=hw_decoder_load, max_bad_share=max_bad_share)
        check_choice("decode", decode, BACKENDS)
        check_choice("shuffle", shuffle, SHUFFLES)
        store = Store.of(split.manifest.made)
        check_crop(crop, interpolation, size=size, scale=scale, store=store)
        share_heaps()
        self._split = split
        self._draw = partial(draw, crop, scale, seed)
        self._device = device
        self._prefetch = prefetch
        self._read_wait_s = self._decode_wait_s = 0.0
        on_gpu = (device, decode) == ("cuda", "mixed") and store.kind != "raw"
        # a GPU resizes what is not resized yet, and cuts what it decoded
        on_host = device == "cpu" or store.kind == "raw" or (store.kind == "resized" and not on_gpu)
        make: Callable[..., Graph]
        if crop == "src" and on_host:
            make = partial(HostWindows, size)
        else:
            encoded = _gpu_decoding(split, hw_decoder_load) if on_gpu else None
            decoded = on_gpu or store.kind == "raw"
            make = partial(
                CropGraph if decoded else DecodedGraph,
                crop,
                size,
                encoded=encoded,
                batch=micro_batch,
                prefetch=prefetch,
            )
        self._build = partial(
            make, interpolation=interpolation, store=store.kind, device=device, threads=threads
        )
        fingerprint = split.manifest.fingerprint
        self._find = partial(find_undecodable_on_gpu, threads=threads) if on_gpu else find_undecodable
        self._repair = Repair(
            split,
            store=store.kind,
            find_undecodable=self._find,
            known={} if journal is None else journal.bad.get(fingerprint, {}),
            trying=self._note,
            max_share=max_bad_share,
            max_row=max_bad_row,
            notify=notify,
        )
        self._running: deque[_Run] = deque()
        with no_image_to_blame(f"the loader could not start on {device}", MORE_MEMORY):
            self._graph: Graph | None = self._build()
        cut = {"start": start, "global_batch": global_batch, "micro_batch": micro_batch}
        stream = _stream(split, seed, shuffle, window)(**cut, rank=rank, world=world)
        self._ahead = ReadAhead(split, stream, readers=readers, prefetch=prefetch, on_wait=notify)
        # last: a loader that could not start has nothing under way
        self._under_way = begin(journal, fingerprint, notify)

    def __next__(self) -> Batch:
        if self._graph is None:
            raise RuntimeError("the loader is closed")
        try:
            return self._advance()
        except BaseException:
            # going on would skip a batch without a word
            self.close()
            raise

    @property
    def stats(self) -> LoaderStats:
        """What it did up to now."""
        return LoaderStats(
            samples=self._repair.samples,
            replaced=self._repair.replaced,
            read_wait_s=self._read_wait_s,
            decode_wait_s=self._decode_wait_s,
        )

    def close(self) -> None:
        """End every thread and close every file; batches handed out stay valid."""
        self._ahead.close()
        self._repair.close()
        self._running.clear()
        if self._graph is not None:
            self._graph.close()
        self._graph = None
        if self._under_way is not None:
            self._under_way.close()

    def _advance(self) -> Batch:
        assert self._graph is not None
        if not self._running:
            for _ in range(self._prefetch):
                self._feed(*self._read())
            self._graph.schedule()
        begun = time.perf_counter()
        images_BHWC = self._take()
        self._decode_wait_s += time.perf_counter() - begun
        turn, _, samples = self._running.popleft()
        self._repair.count(turn)
        self._feed(*self._read())
        self._graph.schedule()
        labels_B, ids_B, epochs_B = self._to_device(turn, samples)
        return Batch(
            images_BHWC=images_BHWC, labels_B=labels_B, ids_B=ids_B, epochs_B=epochs_B, position=turn.position
        )

    def _read(self) -> tuple[Turn, Samples]:
        begun = time.perf_counter()
        turn_and_samples = next(self._ahead)
        self._read_wait_s += time.perf_counter() - begun
        return turn_and_samples

    def _feed(self, turn: Turn, read: Samples) -> None:
        assert self._graph is not None
        with self._no_image_to_blame(turn):
            fed = self._repair.replace(turn, read)
            self._running.append(_Run(turn, read, fed))
            self._note()
            self._graph.feed(fed.images, self._draw(turn))

    def _note(self, *others: int) -> None:
        """Leave word of the samples that are under way, their stand-ins, and these others."""
        if self._under_way is not None:
            batches = [self._repair.stood_for(run.turn.ids_B) for run in self._running]
            self._under_way.note([*batches, np.array(others, np.int64)])

    def _take(self) -> Tensor:
        """Wait for the oldest run; where an image does not decode, replace it and run again."""
        while True:
            with self._no_image_to_blame(self._running[0].turn):
                assert self._graph is not None
                try:
                    return self._graph.take()
                except BadImages as bad:
                    self._replace(bad)
                except RuntimeError as error:
                    self._learn(error)
                    self._run_again()

    def _no_image_to_blame(self, turn: Turn) -> AbstractContextManager[None]:
        what = f"no batch could be made at position {turn.position} on {self._device}"
        return no_image_to_blame(what, MORE_MEMORY)

    def _replace(self, bad: BadImages) -> None:
        """Feed a batch again with stand-ins for the images that the host could not decode."""
        assert isinstance(self._graph, HostWindows | DecodedGraph)
        turn, read, _ = self._running[bad.behind]
        self._repair.learn(turn, bad.reasons)
        fed = self._repair.replace(turn, read)
        self._running[bad.behind] = _Run(turn, read, fed)
        self._note()
        self._graph.feed(fed.images, self._draw(turn), again=True)

    def _learn(self, error: RuntimeError) -> None:
        """Find the images that made the oldest run fail on the GPU; raise where none did."""
        if of_machine(error):
            raise error
        turn, _, fed = self._running[0]
        if not self._repair.learn(turn, self._find(fed.images)):
            raise UserError(
                f"no batch could be made at position {turn.position}, whose images decode one by one: "
                f"{failure_reason(error)}; if memory ran out, use a smaller micro-batch or prefetch"
            ) from error

    def _run_again(self) -> None:
        """Feed the runs under way to a new graph, in their order: DALI calls one that failed not valid."""
        runs = list(self._running)
        self._running.clear()
        assert self._graph is not None
        self._graph.close()
        self._graph = self._build()
        for turn, read, _ in runs:
            self._feed(turn, read)
        self._graph.schedule()

    def _to_device(self, turn: Turn, samples: Samples) -> tuple[Tensor, ...]:
        numbers_3B = torch.from_numpy(np.stack([samples.labels_B, turn.ids_B, turn.epochs_B]))
        if self._device == "cuda":
            # from pageable memory the copy would make the host wait
            numbers_3B = numbers_3B.pin_memory().to("cuda", non_blocking=True)
        return numbers_3B.unbind()


def _stream(split: Split, seed: int, shuffle: Shuffle, window: int) -> Callable[..., Iterator[Turn]]:
    if shuffle == "full":
        return partial(turns, split.manifest.samples, seed)
    return partial(window_turns, [shard.samples for shard in split.manifest.shards], seed, window=window)


def _gpu_decoding(split: Split, hw_decoder_load: float) -> GpuDecoding:
    """Settings of the GPU's decoder; its memory is that of the image of most bytes."""
    with closing(ShardFiles(split)) as files:
        largest = read_samples(split, files, np.array([split.index.image_bytes_N.argmax()]))
    try:
        header = check_header(largest.images[0])
    except ValueError:
        # it will be replaced
        return GpuDecoding(hw_decoder_load=hw_decoder_load)
    return GpuDecoding(hw_decoder_load=hw_decoder_load, height=header.height, width=header.width)
