"""The data of a run: checks its splits against the settings, opens its loaders (nothing else does), and says
which stage of a loader is too slow."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.dali_package import import_dali
from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.loader import Loader, LoaderStats
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.places.opening import is_remote
from turbomim.pipeline.stream.turns import BatchCut, SampleStream
from turbomim.pipeline.system.errors import UserError, never
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.split import Found, Split, open_split
from turbomim.pipeline.tars.store import Store
from turbomim.train.folder.log import Record
from turbomim.train.loop.storage import storage_in_words
from turbomim.train.machine.measurements import Tuned
from turbomim.train.machine.processor import cores
from turbomim.train.machine.tuned_loader import speed_source
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.world.distributed import World


class Batches(AbstractContextManager["Batches"], Iterator[Batch], Protocol):
    """What the loop takes micro-batches from: a Loader, or what goes over its batches."""

    @property
    def stats(self) -> LoaderStats:
        """Totals over the batches up to the last that was taken."""


# % of the time that a step may wait for data before a log says what to do
LONG_WAIT = 5.0
# log lines without such a hint between two that have one
LINES_BETWEEN_HINTS = 20


def open_data(path: str, flag: str, data: DataConfig, world: World) -> Split:
    """The split of a flag, fit for the crops.  The main rank checks it, and it alone hashes changed shards.

    Of a store of objects the main rank alone asks for the index, which has a file a shard.
    Raises UserError that names the flag, also where a rank has another split there.
    """
    if not path:
        raise UserError(
            f"data.path is empty: give the folder that `turbomim shard make` wrote, {flag} FOLDER"
        )
    split_of_rank0: Split | None = None

    def check() -> tuple[str, Found | None]:
        nonlocal split_of_rank0
        if not is_remote(path) and not Path(path).exists():
            raise UserError(f"{flag} {path} does not exist: give the folder that `turbomim shard make` wrote")
        split_of_rank0 = open_split(path)
        check_store(data, split_of_rank0, flag, world.device.type)
        found = (split_of_rank0.versions, split_of_rank0.index) if is_remote(path) else None
        return split_of_rank0.manifest.fingerprint, found

    fingerprint, found = world.broadcast_from_rank0(check)

    def open_same() -> Split:
        split = split_of_rank0 or open_split(path, hashing=False, found=found)
        if split.manifest.fingerprint != fingerprint:
            raise UserError(
                f"{flag} {path} holds another split on this rank's machine than on rank 0's (fingerprint "
                f"{split.manifest.fingerprint[:12]}, not {fingerprint[:12]}): copy the same shards to both"
            )
        return split

    return world.run_on_all(open_same)


def check_store(data: DataConfig, split: Split, flag: str, device: str) -> None:
    """Raise UserError if the split's store cannot give the crops that are asked for, or DALI is not there."""
    store = Store.of(split.manifest.made)
    if data.crop == "rrc" or (device == "cuda" and store.kind != "raw"):
        # now, not after a run folder was made
        import_dali()
    try:
        data.crop_settings().check_store(store)
    except UserError as error:
        fitting = f"data.size {store.short_side}"
        if data.crop == "src":
            fitting += f", data.interpolation {store.resampling}"
        raise UserError(f"{flag} {split.place}: {error} ({fitting})") from error


def store_in_words(data: DataConfig, split: Split) -> str:
    """How the split keeps its photographs, and what that means for the crops."""
    store = Store.of(split.manifest.made)
    if store.kind == "original":
        return "original photographs"
    facts = [f"short side {store.short_side}", f"{store.resampling}"]
    if store.kind == "resized":
        facts += [f"JPEG quality {store.quality}", f"{store.subsampling}"]
    text = f"{store.kind} store ({', '.join(facts)})"
    if data.crop == "rrc":
        text += f": random crops come from images resized to {store.short_side}, not from the originals"
    return text


def about_data(
    data: DataConfig, split: Split, speed: LoaderSpeed, tuned: Tuned[LoaderSpeed] | None, world: World
) -> str:
    """What is read and how: two lines."""
    return (
        f"{counted(split.manifest.samples, 'sample')} in {counted(len(split.manifest.shards), 'shard')}, "
        f"{store_in_words(data, split)}\n"
        f"loader of a rank: {speed.in_words(world.device.type)}; {speed_source(tuned)}"
    )


def open_loader(
    config: Config,
    split: Split,
    cut: BatchCut,
    speed: LoaderSpeed,
    *,
    device: str,
    groups: int = 1,
    journal: Journal | None = None,
    notify: Callable[[str], None],
    stopping: Callable[[], bool] = never,
) -> Loader:
    """The Loader of a rank: every crop that training, held-out loss and pictures see.

    groups: of the stream; those of data.groups are for training alone, whose batches they divide.
    """
    data = config.data
    stream = SampleStream(
        seed=config.run.seed, shuffle=data.shuffle, window=data.window, groups=groups, cut=cut
    )
    return Loader(
        split,
        data.crop_settings(),
        stream,
        speed,
        data.bad_sample_limits(),
        device=device,
        journal=journal,
        notify=notify,
        stopping=stopping,
    )


def slow_stage(record: Record, split: Split, speed: LoaderSpeed, world: World) -> str | None:
    """Which stage of the loader the steps of a log record waited for, with one remedy.

    None if the steps' own wait is short: the host may be blocked while a GPU works, and that costs nothing.
    """
    wait = record["data_wait_pct"]
    if wait <= LONG_WAIT:
        return None
    tune = f"`turbomim tune loader --data {split.place}` measures what is fastest here"
    share = max(1, cores() // world.local_size)
    read, decode, augment = (record[f"{name}_wait_pct"] for name in ("read", "decode", "augment"))
    # by the GPU's clock, what the host's own waits do not explain; below 0 where the host ran ahead
    on_gpu = wait - read - decode - augment if world.device.type == "cuda" else 0.0
    if on_gpu > max(read, decode, augment):
        stage, remedy = "the GPU's own decoding and copies", tune
    elif augment > max(read, decode):
        stage = "RandAugment"
        remedy = f"this rank has {counted(share, 'core')} for it; --finetune.rand_augment '' goes without"
    elif read >= decode:
        stage, remedy = "reading", tune
    else:
        kind = Store.of(split.manifest.made).kind
        # raw pixels are not decoded: the decoder's threads read the windows that they cut
        stage = "reading" if kind == "raw" else "decoding"
        if speed.threads < share:
            remedy = f"more threads may help, --data.threads {share}"
        elif kind == "original":
            remedy = "`turbomim shard make --store resized` makes shards that decode several times faster"
        else:
            remedy = tune
    if stage == "reading" and (storage := storage_in_words(record, split)):
        stage, remedy = "storage", storage
    return f"{wait:.0f} % of the time was spent waiting for data, most for {stage}: {remedy}"
