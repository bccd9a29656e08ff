"""`turbomim.Loader`: the batches of a split for a training loop of one's own."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike, fspath
from typing import Any, Final, Literal, NoReturn
from weakref import finalize

import torch

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.crop import Crop, CropKind
from turbomim.pipeline.loader import Loader as OpenLoader
from turbomim.pipeline.loader import LoaderStats, check_source
from turbomim.pipeline.loader_settings import BadSampleLimits
from turbomim.pipeline.places.opening import meant_url
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, Shuffle, epoch_batches, next_position
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UsageError, UserError, need
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.pipeline.tars.store import Interpolation
from turbomim.train.api.arguments import check_number, count, device_kind, line_taker, whole
from turbomim.train.api.dataset import BatchDataset
from turbomim.train.loop.shares import check_groups, filling, with_cache
from turbomim.train.machine.measurements import machine_name
from turbomim.train.machine.tuned_loader import TUNED_LOADER, rank_speed
from turbomim.train.settings.config import DataConfig
from turbomim.train.world.distributed import World, this_rank


class Loader(Closing):
    """The batches of a split: crops, labels and ids, decoded ahead by threads of this process.

    A `for` gives one epoch: each sample once, in a new order, `len(loader)` batches, the last one shorter.
    Another `for` goes on where the one before ended or was broken off, so after a `break` it gives the rest
    of that epoch.  With endless=True a `for` does not end, and all batches are full: they go on over the
    ends of epochs.  Samples, crops and flips follow from split, seed and position alone.

    A sample that cannot be decoded is replaced by the next one in storage that can, and `notify` is told.

    Example:
        loader = turbomim.Loader("shards/train", size=224, batch=256, device="cuda")
        for epoch in range(loader.epoch, 90):
            for batch in loader:
                train(batch.images_BHWC, batch.labels_B)  # uint8 (256, 224, 224, 3), int64 (256,)
                torch.save(loader.state_dict(), "loader.pt")

    A batch has images_BHWC (B, H, W, 3) uint8 RGB, labels_B (-1: no label), ids_B (a sample's place in
    storage) and epochs_B, all (B,) int64 and on the device, and position, that of its first sample.

    On several ranks each gets its own samples, as many as the others.  So at the end of an epoch a few are
    left out: fewer than there are ranks, others in each epoch; endless leaves out none.

    Args:
        path: A folder of shards as `turbomim.shard` writes it, or its URL: s3://BUCKET/FOLDER.
        size: Pixels a side of the crop.
        batch: Samples of a batch, on this rank.
        device: Where batches are: "cpu", or "cuda", torch's current GPU, which then decodes too.
        crop: "src", simple resized crop: the short side is resized to `size`, then a square is cut out; or
            "rrc", random resized crop.
        rrc_scale: Least share of the image's area that "rrc" keeps, above 0, at most 1.
        interpolation: Of the resize, "bicubic" or "bilinear".
        seed: Of order, crops and flips.
        shuffle: "full": an epoch is a permutation of all samples; "window": of shards, then of the samples of
            `window` shards at a time, for storage that is slow at random reads.
        window: Shards of a window.
        groups: Streams that a batch of all ranks takes equal parts of, each over its own share of the shards:
            of as many machines each reads one share alone.  With endless=True only.
        endless: Whether a `for` goes on for ever, see above.
        rank, world: This process among those that share the epoch.  None: those of torch.distributed when
            the first batch is asked for, else those that torchrun has set, else 0 of 1.
        threads: That decode; 0: as `turbomim tune loader` found, else this machine's cores, shared by its
            ranks.
        readers: Threads that read shards ahead, each by 16 requests at a time in a store of objects; 0: as
            `turbomim tune loader` found, else 2.
        prefetch: Batches decoded ahead; 0: likewise.
        decode: Where a GPU's photographs are decoded, "mixed" (by the GPU) or "cpu"; "auto": as tuned, else
            mixed.
        cache: Folder of a local disk that keeps whole shards of a store of objects, as `data.cache` does: it
            is filled while a `for` runs, and processes may share it.
        cache_gb: What it may take, 1e9 bytes.
        max_bad_share: Of the samples, how many may be replaced before `for` raises, 0 to 1; counted from 200
            samples on.  0: none may, from the first.
        max_bad_row: As many replaced ones in a row are too many.
        notify: Takes one line an event, from any thread: a sample that was replaced, a read that is waited
            for, what the cache keeps.  None: each line is a warning of Python's.

    Raises:
        UserError: In one line: no shards there, or changed ones; an argument that cannot be; a store that
            cannot give the crop; no such device; too many samples that cannot be decoded.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        size: int = 224,
        batch: int = 256,
        device: str | torch.device = "cpu",
        crop: CropKind = "src",
        rrc_scale: float = 0.2,
        interpolation: Interpolation = "bicubic",
        seed: int = 0,
        shuffle: Shuffle = "full",
        window: int = 16,
        groups: int = 1,
        endless: bool = False,
        rank: int | None = None,
        world: int | None = None,
        threads: int = 0,
        readers: int = 0,
        prefetch: int = 0,
        decode: Literal["auto", "cpu", "mixed"] = "auto",
        cache: str | PathLike[str] = "",
        cache_gb: float = 0.0,
        max_bad_share: float = 0.05,
        max_bad_row: int = 100,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        raise_limit()
        size, batch = whole("size", size), whole("batch", batch)
        seed, window, groups = whole("seed", seed), whole("window", window), whole("groups", groups)
        max_bad_row = whole("max_bad_row", max_bad_row)
        numbers = {"rrc_scale": rrc_scale, "max_bad_share": max_bad_share, "cache_gb": cache_gb}
        for name, number in numbers.items():
            check_number(name, number)
        self._notify = line_taker(notify)
        need(batch >= 1, "batch", batch, "at least 1")
        if (rank is None) != (world is None):
            raise UsageError(f"rank = {rank}, world = {world}: give both or none")
        self._device = device_kind(device)
        self._crop = Crop(kind=crop, size=size, scale=rrc_scale, interpolation=interpolation)
        self._limits = BadSampleLimits(max_share=max_bad_share, max_row=max_bad_row)
        need(decode in ("auto", "cpu", "mixed"), "decode", repr(decode), "auto, cpu or mixed")
        self._data = DataConfig(
            groups=groups,
            cache=fspath(cache),
            cache_gb=float(cache_gb),
            threads=count("threads", threads),
            readers=count("readers", readers),
            prefetch=count("prefetch", prefetch),
            decode=decode,
        )
        need(groups == 1 or endless, "groups", groups, "1 without endless=True: epochs of groups end apart")
        self._seed, self._shuffle, self._window, self._batch = seed, shuffle, window, batch
        given = None if rank is None or world is None else (whole("rank", rank), whole("world", world))
        self._rank_and_world = given
        self.endless = endless
        self.position = 0
        # what cannot be is refused now, not at the first batch
        self._stream()
        # shards and cache are opened when they are needed: the current folder may be another then
        place = fspath(path)
        self._split = open_split(place if meant_url(place) else os.path.abspath(place))
        check_source(self._split, self._crop, self._device)
        check_groups(groups, self._split, "the split")
        if kept := self._with_cache().cache:
            self._notify(kept.in_words())
            self._data = replace(self._data, cache=os.path.abspath(self._data.cache))
        self._loader: OpenLoader | None = None
        # what runs: also closed where this is dropped
        self._running = ExitStack()
        finalize(self, self._running.close)

    def __iter__(self) -> Iterator[Batch]:
        """Go on from `position`: to the end of the epoch, or for ever."""
        while True:
            yield self._next()
            if not self.endless and self.position % self.samples == 0:
                return

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank; where the loader is endless, rounded up."""
        cut = self._stream().cut
        if self.endless:
            return -(-self.samples // cut.global_batch)
        return epoch_batches(cut, self.samples)

    def __repr__(self) -> str:
        """Where it reads, how much there is, and where it is."""
        return f"turbomim.Loader({str(self._split.place)!r}): {self.samples:,} samples, at {self.position:,}"

    @property
    def samples(self) -> int:
        """Samples of the split."""
        return self._split.manifest.samples

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label; none for a split without labels."""
        return self._split.manifest.classes

    @property
    def epoch(self) -> int:
        """Epochs that are over: the number, from 0, of the one that the next sample is of."""
        if self.endless:
            return self.position // self.samples
        # of a state of fewer ranks too few samples may be left for all of these
        return next_position(self.position, 0, self._stream().cut, self.samples) // self.samples

    @property
    def stats(self) -> LoaderStats:
        """Samples, replaced ones, and seconds waited, since the threads were started."""
        return self._loader.stats if self._loader else LoaderStats()

    def state_dict(self) -> dict[str, Any]:
        """Where the next `for` goes on: `position`, one integer, and which stream of samples it counts.

        Position: samples that were given, on all ranks, since the loader began.  The state fits a loader with
        another batch, crop, device or number of ranks as well: the next samples are the same.
        """
        return {"position": self.position, **self._what_is_counted()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another loader was.  Raises UserError if that one's samples or order are not ours."""
        need(isinstance(state_dict, Mapping), "state_dict", repr(state_dict), "what state_dict() gives")
        ours = self._what_is_counted()
        position: Any = state_dict.get("position")
        if not {"position", *ours} <= state_dict.keys():
            raise UserError(
                f"no state of a Loader: it has {', '.join(map(str, state_dict)) or 'nothing'}, and must have "
                f"position, {', '.join(ours)}"
            )
        # orders are defined for so many epochs
        end = self.samples * 2**32
        good = type(position) is int and 0 <= position < end
        need(good, "position", repr(position), f"a whole number from 0 on, below {end:,}")
        for name, value in ours.items():
            if state_dict[name] != value:
                raise UserError(
                    f"the state has {name} {state_dict[name]!r} and this loader of "
                    f"{str(self._split.place)!r} has {value!r}, so its samples would be others: give it the "
                    f"same {name}"
                )
        self.close()
        self.position = position

    def dataset(self) -> BatchDataset:
        """This loader as a torch IterableDataset of dictionaries, for Lightning, Hugging Face or torchdata.

        Example:
            data = loader.dataset()
            for batch in DataLoader(data, batch_size=None): ...
        """
        return BatchDataset(self)

    def close(self) -> None:
        """End its threads; batches stay valid.  Another `for` would start them again, and go on."""
        self._loader = None
        self._running.close()

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a turbomim.Loader has threads and files of this process: make one in each, and give it the "
            "state_dict; in a DataLoader num_workers must be 0"
        )

    def _next(self) -> Batch:
        if self._loader is None:
            self._open()
        assert self._loader is not None
        if self._pid != os.getpid():
            # a fork has no threads: to wait for one, or to end it, would take for ever
            _FORKED.append(self._running.pop_all())
            self._loader = None
            raise UserError(
                "this process was forked in the middle of a `for` over this Loader, whose threads stayed "
                "behind: close it before the fork, or make one here"
            )
        try:
            batch = next(self._loader)
        except BaseException:
            self.close()
            raise
        cut, share = self._cut, len(batch.ids_B)
        if self.endless:
            self.position = batch.position + (cut.world - cut.rank) * share
        else:
            self.position = next_position(batch.position, share, cut, self.samples)
        return batch

    def _open(self) -> None:
        stream, split = self._stream(), self._with_cache()
        tuned = TUNED_LOADER.read(machine_name(torch.device(self._device)))
        self._cut, self._pid = stream.cut, os.getpid()
        with ExitStack() as opened:
            opened.enter_context(filling(split, self._notify))
            self._loader = opened.enter_context(
                OpenLoader(
                    split,
                    self._crop,
                    stream,
                    rank_speed(self._data, tuned, this_rank()[2]),
                    self._limits,
                    device=self._device,
                    notify=self._notify,
                )
            )
            self._running.push(opened.pop_all())

    def _with_cache(self) -> Split:
        """The split, with what this machine keeps of it."""
        rank, size, local_size = this_rank()
        rank, size = self._rank_and_world or (rank, size)
        world = World(rank=rank, size=size, local_size=local_size, device=torch.device(self._device))
        return with_cache(self._data, self._split, world)

    def _stream(self) -> SampleStream:
        """What comes from `position` on."""
        rank, world = self._rank_and_world or this_rank()[:2]
        cut = BatchCut(
            global_batch=self._batch * world,
            micro_batch=self._batch,
            rank=rank,
            world=world,
            start=self.position,
        )
        return SampleStream(
            seed=self._seed,
            shuffle=self._shuffle,
            window=self._window,
            groups=self._data.groups,
            by_epoch=not self.endless,
            cut=cut,
        )

    def _what_is_counted(self) -> dict[str, Any]:
        order = self._shuffle if self._shuffle == "full" else f"windows of {self._window} shards"
        if self._data.groups > 1:
            order += f", {self._data.groups} groups"
        return {"split": self._split.manifest.fingerprint, "seed": self._seed, "shuffle": order}


# loaders of the process that this one was forked from: never closed here
_FORKED: Final[list[ExitStack]] = []
