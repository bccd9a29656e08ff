"""The loader: a split and a position to batches on the training device, for ever.

sample stream (stream/turns.py) -> read ahead (reading/read_ahead.py) -> stand-ins (bad_samples.py) -> decode
(decoding/decode.py, or a GPU), crop and flip (decoding/windows.py on the host, or decoding/dali.py) -> torch.
A batch is a pure function of split, seed and position: threads, readers and prefetch change nothing in it.
Shape suffixes: B samples, H W pixels, C channels.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from turbomim.pipeline.bad_samples import Repair
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import draw_crops
from turbomim.pipeline.decoding.dali import CropGraph, DecodedGraph, GpuDecoding, find_undecodable_on_gpu
from turbomim.pipeline.decoding.dali_package import import_dali
from turbomim.pipeline.decoding.decode import BadImages, find_undecodable
from turbomim.pipeline.decoding.failures import failure_reason, no_image_to_blame, of_machine
from turbomim.pipeline.decoding.header import check_header
from turbomim.pipeline.decoding.under_way import Journal, begin, known_bad
from turbomim.pipeline.decoding.windows import HostWindows
from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
from turbomim.pipeline.reading.memory import share_heaps
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.reading.shard_files import Samples, ShardFiles, read_samples
from turbomim.pipeline.stream.turns import SampleStream, Turn, turns
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError, never, to_stderr
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Kind, Store

# what makes crops out of stored photographs
CropMaker = HostWindows | CropGraph | DecodedGraph
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

    stream: which samples come, and what is drawn for them; speed changes nothing in the batches.
    A sample that cannot be decoded is replaced, see bad_samples.py; limits: how many may be.
    device: "cpu" or "cuda" (torch's current device); journal: where to say what is being decoded, and which
    samples must not be; notify: takes one line an event: a sample replaced, a read that is waited for;
    stopping: asked while a read is waited for, which ends with Stopped once it says so.
    Raises UserError: a split without samples, a store that cannot give the crop, a device that is not there,
    a shard that changed, too many images that do not decode, an error of the GPU or of memory.
    """

    def __init__(
        self,
        split: Split,
        crop: Crop,
        stream: SampleStream,
        speed: LoaderSpeed,
        limits: BadSampleLimits,
        *,
        device: str = "cpu",
        journal: Journal | None = None,
        notify: Callable[[str], None] = to_stderr,
        stopping: Callable[[], bool] = never,
    ) -> None:
        store = check_source(split, crop, device)
        share_heaps()
        self._draw_crops = partial(draw_crops, crop, stream.seed)
        self._device = device
        self._prefetch = speed.prefetch
        self._read_wait_s = self._decode_wait_s = 0.0
        on_gpu = speed.decodes_on(device) and store.kind != "raw"
        self._find_undecodable = (
            partial(find_undecodable_on_gpu, threads=speed.threads) if on_gpu else find_undecodable
        )
        encoded = _gpu_decoding(split, speed.hw_decoder_load) if on_gpu else None
        self._open_maker = partial(
            _crop_maker, crop, speed, store.kind, stream.cut.micro_batch, device, encoded
        )
        fingerprint = split.manifest.fingerprint
        self._repair = Repair(
            split,
            store=store.kind,
            find_undecodable=self._find_undecodable,
            limits=limits,
            known=known_bad(journal, fingerprint),
            trying=self._write_under_way,
            notify=notify,
        )
        self._running: deque[_Run] = deque()
        with no_image_to_blame(f"the loader could not start on {device}", MORE_MEMORY):
            self._maker: CropMaker | None = self._open_maker()
        self._ahead = ReadAhead(
            split,
            turns(stream, [shard.samples for shard in split.manifest.shards]),
            readers=speed.readers,
            prefetch=speed.prefetch,
            on_wait=notify,
            stopping=stopping,
        )
        # last: a loader that could not start has nothing under way
        self._under_way = begin(journal, fingerprint, notify)

    def __next__(self) -> Batch:
        if self._maker is None:
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
        if self._maker is not None:
            self._maker.close()
        self._maker = None
        if self._under_way is not None:
            self._under_way.close()

    def _advance(self) -> Batch:
        assert self._maker is not None
        if not self._running:
            for _ in range(self._prefetch):
                self._feed(*self._read())
        begun = time.perf_counter()
        images_BHWC = self._take()
        self._decode_wait_s += time.perf_counter() - begun
        turn, _, samples = self._running.popleft()
        self._repair.count(turn)
        self._feed(*self._read())
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
        assert self._maker is not None
        with self._no_image_to_blame(turn):
            fed = self._repair.replace(turn, read)
            self._running.append(_Run(turn, read, fed))
            self._write_under_way()
            self._maker.feed(fed.images, self._draw_crops(turn))

    def _write_under_way(self, *others: int) -> None:
        """Leave word of the samples that are under way, their stand-ins, and these others."""
        if self._under_way is not None:
            batches = [self._repair.decoded_for(run.turn.ids_B) for run in self._running]
            self._under_way.note([*batches, np.array(others, np.int64)])

    def _take(self) -> Tensor:
        """Wait for the oldest run; where an image does not decode, replace it and run again."""
        while True:
            with self._no_image_to_blame(self._running[0].turn):
                assert self._maker is not None
                try:
                    return self._maker.take()
                except BadImages as bad:
                    self._feed_stand_ins(bad)
                except RuntimeError as error:
                    self._blame_images(error)
                    self._run_again()

    def _no_image_to_blame(self, turn: Turn) -> AbstractContextManager[None]:
        what = f"no batch could be made at position {turn.position} on {self._device}"
        return no_image_to_blame(what, MORE_MEMORY)

    def _feed_stand_ins(self, bad: BadImages) -> None:
        """Feed a batch again with stand-ins for the images that the host could not decode."""
        assert isinstance(self._maker, HostWindows | DecodedGraph)
        turn, read, _ = self._running[bad.behind]
        self._repair.remember_bad(turn, bad.reasons)
        fed = self._repair.replace(turn, read)
        self._running[bad.behind] = _Run(turn, read, fed)
        self._write_under_way()
        self._maker.feed(fed.images, self._draw_crops(turn), again=True)

    def _blame_images(self, error: RuntimeError) -> None:
        """Find the images that made the oldest run fail on the GPU; raise where none did."""
        if of_machine(error):
            raise error
        turn, _, fed = self._running[0]
        if not self._repair.remember_bad(turn, self._find_undecodable(fed.images)):
            raise UserError(
                f"no batch could be made at position {turn.position}, whose images decode one by one: "
                f"{failure_reason(error)}; if memory ran out, use a smaller micro-batch or prefetch"
            ) from error

    def _run_again(self) -> None:
        """Feed the runs under way to a new graph, in their order: DALI calls one that failed not valid."""
        runs = list(self._running)
        self._running.clear()
        assert self._maker is not None
        self._maker.close()
        self._maker = self._open_maker()
        for turn, read, _ in runs:
            self._feed(turn, read)

    def _to_device(self, turn: Turn, samples: Samples) -> tuple[Tensor, ...]:
        numbers_3B = torch.from_numpy(np.stack([samples.labels_B, turn.ids_B, turn.epochs_B]))
        if self._device == "cuda":
            # from pageable memory the copy would make the host wait
            numbers_3B = numbers_3B.pin_memory().to("cuda", non_blocking=True)
        return numbers_3B.unbind()


def check_source(split: Split, crop: Crop, device: str) -> Store:
    """Return how the split keeps its photographs.  Raises UserError for what no Loader can give from it."""
    if split.manifest.samples < 1:
        raise UserError(f"the split {str(split.place)!r} has no samples: make it from a folder with images")
    _check_device(device)
    store = Store.of(split.manifest.made)
    crop.check_store(store)
    if crop.kind == "rrc" or (device == "cuda" and store.kind != "raw"):
        import_dali()
    return store


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} is neither 'cpu' nor 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' was asked for, but torch finds no GPU: check the driver or use 'cpu'")


def _crop_maker(
    crop: Crop, speed: LoaderSpeed, store: Kind, batch: int, device: str, encoded: GpuDecoding | None
) -> CropMaker:
    """Make what decodes and crops batches of `batch`.  encoded: how a GPU decodes, None if it does not."""
    # a GPU resizes what is not resized yet, and cuts what it decoded
    on_host = device == "cpu" or store == "raw" or (store == "resized" and encoded is None)
    if crop.kind == "src" and on_host:
        return HostWindows(crop, store=store, device=device, threads=speed.threads)
    graph = CropGraph(
        crop,
        store=store,
        batch=batch,
        device=device,
        encoded=encoded,
        threads=speed.threads,
        prefetch=speed.prefetch,
    )
    if encoded is not None or store == "raw":
        return graph
    return DecodedGraph(graph, threads=speed.threads)


def _gpu_decoding(split: Split, hw_decoder_load: float) -> GpuDecoding:
    """Settings of the GPU's decoder; its memory is that of the image of most bytes."""
    with ShardFiles(split) as files:
        largest = read_samples(split, files, np.array([split.index.image_bytes_N.argmax()]))
    try:
        header = check_header(largest.images[0])
    except ValueError:
        # it will be replaced
        return GpuDecoding(hw_decoder_load=hw_decoder_load)
    return GpuDecoding(hw_decoder_load=hw_decoder_load, height=header.height, width=header.width)
