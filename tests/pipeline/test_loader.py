"""The loader: batches that follow from the position alone, read ahead, and errors that name the sample."""

import gc
import itertools
import os
import threading
import time
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.pipeline.decoding.crop_reference import by_torchvision, run_graph, run_windows
from tests.pipeline.loading import make_loader

from turbomim.pipeline import loader
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.crop import Crop, CropKind
from turbomim.pipeline.decoding.crop_draws import draw_crops
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Interpolation

SIZE = 48
SEED = 2**40 + 5
CROP = Crop(size=SIZE)


def load(split: Split, batches: int, **changes: Any) -> list[Batch]:
    arguments: dict[str, Any] = {
        "size": SIZE,
        "seed": SEED,
        "global_batch": 12,
        "micro_batch": 6,
        "threads": 2,
        "readers": 2,
        "prefetch": 2,
    }
    with make_loader(split, **(arguments | changes)) as loader:
        return list(itertools.islice(loader, batches))


def by_position(batches: list[Batch]) -> dict[int, tuple[Any, ...]]:
    """Every sample of the batches: position to (pixels, label, id, epoch)."""
    return {
        batch.position + i: (
            batch.images_BHWC[i].numpy().tobytes(),
            int(batch.labels_B[i]),
            int(batch.ids_B[i]),
            int(batch.epochs_B[i]),
        )
        for batch in batches
        for i in range(len(batch.ids_B))
    }


def test_samples_labels_and_pixels_are_those_of_the_stream(tiny_split: Split) -> None:
    """Everything in a batch follows from the position alone, here over an epoch's border."""
    files = ShardFiles(tiny_split)
    for batch in load(tiny_split, 7, start=10):
        epochs, ids = sample_ids(np.arange(batch.position, batch.position + 6), 33, SEED)
        assert batch.epochs_B.tolist() == epochs.tolist()
        assert batch.ids_B.tolist() == ids.tolist()
        samples = read_samples(tiny_split, files, ids)
        assert batch.labels_B.tolist() == samples.labels_B.tolist()
        inputs = draw_crops(CROP, SEED, Turn(position=batch.position, epochs_B=epochs, ids_B=ids))
        words, flips = inputs["words"], inputs["flips"]
        for i in range(6):
            expected = by_torchvision(samples.images[i], words[i], int(flips[i]), SIZE)
            # the published crops', but for rounding: one value in a million is off by two
            assert np.abs(batch.images_BHWC[i].numpy() - expected).max() <= 2
            assert np.abs(batch.images_BHWC[i].numpy() - expected).mean() < 0.3
    files.close()


def test_random_crops_are_those_of_the_stream(tiny_split: Split) -> None:
    """Below the least size of the simple crop too."""
    (batch,) = load(tiny_split, 1, size=5, crop="rrc", scale=0.6, start=30)
    epochs, ids = sample_ids(np.arange(30, 36), 33, SEED)
    files = ShardFiles(tiny_split)
    images = read_samples(tiny_split, files, ids).images
    files.close()
    turn = Turn(position=30, epochs_B=epochs, ids_B=ids)
    inputs = draw_crops(Crop(kind="rrc", size=5, scale=0.6), SEED, turn)
    assert np.array_equal(batch.images_BHWC.numpy(), run_graph(images, inputs, 5, "rrc"))


@pytest.mark.parametrize("crop", ["src", "rrc"])
def test_the_interpolation_reaches_the_graph(tiny_split: Split, crop: CropKind) -> None:
    """Bicubic unless asked otherwise."""
    epochs, ids = sample_ids(np.arange(6), 33, SEED)
    files = ShardFiles(tiny_split)
    images = read_samples(tiny_split, files, ids).images
    files.close()
    inputs = draw_crops(Crop(kind=crop, size=SIZE), SEED, Turn(position=0, epochs_B=epochs, ids_B=ids))
    bicubic, bilinear = (
        run_graph(images, inputs, SIZE, crop, name)
        if crop == "rrc"
        else run_windows(images, inputs, SIZE, name)
        for name in get_args(Interpolation)
    )
    assert not np.array_equal(bicubic, bilinear)
    (default,) = load(tiny_split, 1, crop=crop)
    assert np.array_equal(default.images_BHWC.numpy(), bicubic)
    (chosen,) = load(tiny_split, 1, crop=crop, interpolation="bilinear")
    assert np.array_equal(chosen.images_BHWC.numpy(), bilinear)


def test_batch_form(tiny_split: Split) -> None:
    (batch,) = load(tiny_split, 1)
    assert batch.images_BHWC.shape == (6, SIZE, SIZE, 3)
    assert batch.images_BHWC.dtype == torch.uint8
    assert batch.images_BHWC.is_contiguous()
    for numbers in (batch.labels_B, batch.ids_B, batch.epochs_B):
        assert numbers.shape == (6,)
        assert numbers.dtype == torch.int64
        assert numbers.is_contiguous()


def test_labels_are_the_classes(tiny_split: Split) -> None:
    """By way of the file names: key ash_tree_00 has label 0."""
    for batch in load(tiny_split, 6):
        for sample, label in zip(batch.ids_B.tolist(), batch.labels_B.tolist(), strict=True):
            assert tiny_split.manifest.classes[label] in tiny_split.locate(sample)


@pytest.mark.parametrize(
    "changes",
    [
        {"readers": 1},
        {"readers": 3},
        {"threads": 1},
        {"threads": 3},
        {"prefetch": 1},
        {"prefetch": 8},
        {"micro_batch": 12},
        {"micro_batch": 3},
        {"global_batch": 24},
    ],
    ids=str,
)
@pytest.mark.parametrize("crop", ["src", "rrc"])
def test_nothing_but_the_position_matters(tiny_split: Split, crop: str, changes: dict[str, int]) -> None:
    reference = by_position(load(tiny_split, 8, crop=crop))
    micro_batch = changes.get("micro_batch", 6)
    assert by_position(load(tiny_split, 48 // micro_batch, crop=crop, **changes)) == reference


@pytest.mark.parametrize("crop", ["src", "rrc"])
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_equal_one(tiny_split: Split, world: int, crop: str) -> None:
    reference = by_position(load(tiny_split, 8, crop=crop))
    ranks = [
        load(tiny_split, 16 // world, micro_batch=3, rank=rank, world=world, crop=crop)
        for rank in range(world)
    ]
    assert by_position([batch for rank in ranks for batch in rank]) == reference


@pytest.mark.parametrize("start", [1, 6, 32, 33, 10**9])
def test_resume_at_any_position(tiny_split: Split, start: int) -> None:
    long = by_position(load(tiny_split, 8, start=start))
    resumed = by_position(load(tiny_split, 6, start=start + 12))
    assert resumed.items() <= long.items()


def test_batches_stay_valid_while_held(tiny_split: Split) -> None:
    with_copies = []
    with make_loader(
        tiny_split, size=SIZE, seed=SEED, global_batch=6, micro_batch=6, threads=2, readers=2, prefetch=2
    ) as loader:
        for batch in itertools.islice(loader, 30):
            with_copies.append((batch.images_BHWC, batch.images_BHWC.clone()))
    gc.collect()
    assert all(torch.equal(held, copy) for held, copy in with_copies)
    assert len({held.data_ptr() for held, _ in with_copies}) == 30


def test_decoding_goes_on_while_the_consumer_works(tiny_split: Split) -> None:
    """After a pause longer than a batch takes, the next batches are ready."""
    with make_loader(
        tiny_split, size=224, seed=1, global_batch=40, micro_batch=40, threads=1, readers=1, prefetch=2
    ) as loader:
        next(loader)
        shares = [1.0]
        # a busy machine may spoil a try
        while min(shares) > 1 / 6 and len(shares) < 20:
            started = time.perf_counter()
            next(loader)
            next(loader)
            next(loader)
            waited = time.perf_counter() - started
            time.sleep(2 * waited)
            started = time.perf_counter()
            next(loader)
            shares.append((time.perf_counter() - started) / waited)
    assert min(shares) < 1 / 6


def test_a_shard_cut_under_a_running_job(own_split: Split) -> None:
    with (
        make_loader(
            own_split, size=SIZE, seed=1, global_batch=6, micro_batch=6, threads=1, readers=1, prefetch=1
        ) as loader,
        pytest.raises(UserError, match=r"\.tar' at byte \d+: the file ends"),
    ):
        next(loader)
        for shard in range(4):
            os.truncate(own_split.shard_path(shard), 512)
        for _ in range(5):
            next(loader)


def test_a_slow_read_is_named_while_it_lasts(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 5 s, here 0.05 s; the time goes to the reads, not to the decoder."""
    preadv, lines = os.preadv, list[tuple[float, str]]()

    def slowly(descriptor: int, buffers: Any, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("2.tar"):
            time.sleep(0.2)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", slowly)
    monkeypatch.setattr(loader, "ReadAhead", partial(ReadAhead, wait_s=0.05))
    begun = time.monotonic()
    arguments: dict[str, Any] = {
        "size": SIZE,
        "seed": SEED,
        "global_batch": 6,
        "micro_batch": 6,
        "threads": 1,
    }
    with make_loader(
        tiny_split,
        **arguments,
        readers=1,
        prefetch=1,
        notify=lambda line: lines.append((time.monotonic(), line)),
    ) as batches:
        next(batches)
        stats = batches.stats
    assert lines[0][0] - begun < 60
    assert all(str(tiny_split.shard_path(2)) in line and "at byte" in line for _, line in lines)
    assert stats.read_wait_s > 0.3
    assert stats.decode_wait_s < stats.read_wait_s


def test_closing_leaves_no_thread_and_no_file(tiny_split: Split) -> None:
    load(tiny_split, 1)
    gc.collect()
    before = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    load(tiny_split, 2, threads=3, readers=3)
    with (
        pytest.raises(KeyError),
        make_loader(
            tiny_split, size=SIZE, seed=1, global_batch=6, micro_batch=6, threads=3, readers=3
        ) as loader,
    ):
        next(loader)
        assert len(os.listdir("/proc/self/task")) > before[0] + 3
        raise KeyError
    loader.close()
    # a joined thread may still be on its way out of the kernel
    for _ in range(1000):
        after = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
        if after == before:
            break
        time.sleep(0.05)
    assert after == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 8}, "size = 8: must be at least 9 pixels"),
        ({"size": 0, "crop": "rrc"}, "size = 0: must be at least 1"),
        ({"crop": "rcc"}, "crop = 'rcc': must be src or rrc"),
        ({"interpolation": "cubic"}, "^interpolation = 'cubic': must be bicubic or bilinear$"),
        ({"crop": "rrc", "scale": 0.0}, "rrc_scale = 0.0: must be above 0"),
        ({"crop": "rrc", "scale": 1.5}, "rrc_scale = 1.5: must be .* at most 1"),
        ({"seed": -1}, "seed = -1: must be 0 to"),
        ({"start": -1}, "start = -1: must be 0 or more"),
        ({"device": "tpu"}, "'tpu'"),
        ({"threads": 0}, "threads = 0: must be at least 1"),
        ({"window": 0}, "window = 0: must be at least 1"),
        ({"max_bad_row": 0}, "max_bad_row = 0: must be at least 1"),
        ({"max_bad_share": -0.1}, "max_bad_share = -0.1: must be 0 to 1"),
        ({"hw_decoder_load": 1.1}, "hw_decoder_load = 1.1: must be 0 to 1"),
        ({"decode": "gpu"}, "decode = 'gpu': must be cpu or mixed"),
        ({"shuffle": "none"}, "shuffle = 'none': must be full or window"),
        ({"readers": 0}, "readers = 0"),
        ({"prefetch": 0}, "prefetch = 0"),
        ({"micro_batch": 5}, "global batch 12"),
        ({"rank": 1}, "rank = 1: must be .* below the 1 ranks"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(tiny_split: Split, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(tiny_split, 1, **changes)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("turbomim")]
