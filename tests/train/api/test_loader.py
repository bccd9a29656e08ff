"""`turbomim.Loader`: one epoch a `for`, a state of one integer, several ranks, and nothing left running.

Planted: a position that counts this rank's samples alone, which fails `test_ranks_share_each_epoch` and
`test_another_number_of_ranks_goes_on`; the last batch of an epoch dropped (`len` rounded down), which fails
`test_a_for_is_an_epoch`; no `finalize`, which fails `test_dropped_it_leaves_no_thread`.
"""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import turbomim
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.world.distributed import this_rank

SAMPLES = 33
SMALL: dict[str, Any] = {"size": 32, "batch": 8, "threads": 1}


def ids_of(batches: Any) -> list[list[int]]:
    return [batch.ids_B.tolist() for batch in batches]


def flat(epoch: list[list[int]]) -> list[int]:
    return [*itertools.chain.from_iterable(epoch)]


def taken(loader: turbomim.Loader, count: int) -> list[list[int]]:
    return ids_of(itertools.islice(loader, count))


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("turbomim")]


def test_shards_are_found_from_another_folder(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted, and seen to fail: the relative path, for which the first `for` blamed a shard."""
    monkeypatch.chdir(trees.parent)
    with turbomim.Loader(trees.name, **SMALL) as loader:
        monkeypatch.chdir(tmp_path)
        assert len(flat(ids_of(loader))) == SAMPLES


def test_a_for_is_an_epoch(trees: Path) -> None:
    """Each sample once, `len` batches, the last one shorter; the next `for` is the next epoch."""
    with turbomim.Loader(trees, **SMALL) as loader:
        first, second = ids_of(loader), ids_of(loader)
        assert loader.epoch == 2 and loader.position == 2 * SAMPLES
    for epoch in (first, second):
        assert [len(ids) for ids in epoch] == [8, 8, 8, 8, 1]
        assert sorted(flat(epoch)) == list(range(SAMPLES))
    assert first != second
    assert len(loader) == 5 and loader.samples == SAMPLES and loader.classes == ("ash", "birch", "cedar")
    assert repr(loader) == f"turbomim.Loader({str(trees)!r}): 33 samples, at 66"


@pytest.mark.parametrize("crop", ["src", "rrc"])
def test_what_a_batch_holds(trees: Path, crop: Any) -> None:
    with turbomim.Loader(trees, crop=crop, **SMALL) as loader:
        batches = list(loader)
    assert [batch.position for batch in batches] == [0, 8, 16, 24, 32]
    assert repr(batches[1]) == "Batch: images (8, 32, 32, 3) on cpu, at 8"
    for batch in batches:
        count = len(batch.ids_B)
        assert batch.images_BHWC.shape == (count, 32, 32, 3) and batch.images_BHWC.dtype == torch.uint8
        assert batch.images_BHWC.is_contiguous()
        for numbers in (batch.labels_B, batch.ids_B, batch.epochs_B):
            assert numbers.shape == (count,) and numbers.dtype == torch.int64
    labels = torch.cat([batch.labels_B for batch in batches]).bincount()
    assert labels.tolist() == [11, 11, 11]


def test_endless_goes_on_over_the_end_of_an_epoch(trees: Path) -> None:
    """Full batches, none of which ends with an epoch; the samples are those of the epochs."""
    by_epoch = turbomim.Loader(trees, **SMALL)
    expected = flat(ids_of(by_epoch) + ids_of(by_epoch))
    endless = turbomim.Loader(trees, endless=True, **SMALL)
    found = taken(endless, 8)
    assert {len(ids) for ids in found} == {8}
    assert flat(found) == expected[:64]
    assert len(endless) == 5 and endless.position == 64


def test_endless_ranks_share_the_stream(trees: Path) -> None:
    one = turbomim.Loader(trees, endless=True, size=32, batch=8)
    two = [turbomim.Loader(trees, endless=True, rank=rank, world=2, size=32, batch=4) for rank in range(2)]
    for _ in range(6):
        together = flat([taken(loader, 1)[0] for loader in two])
        assert together == taken(one, 1)[0]
        assert {loader.position for loader in two} == {one.position}


@pytest.mark.parametrize("endless", [False, True])
def test_it_goes_on_where_it_was(trees: Path, endless: bool) -> None:
    """After a break, a close, or a state that another loader takes: the rest, and no sample twice."""
    loader = turbomim.Loader(trees, endless=endless, **SMALL)
    whole = taken(loader, 5)
    for batches in range(6):
        before = turbomim.Loader(trees, endless=endless, **SMALL)
        begun = taken(before, batches)
        state = before.state_dict()
        after = turbomim.Loader(trees, endless=endless, **SMALL)
        after.load_state_dict(state)
        if batches < 5:
            assert begun + taken(after, 5 - batches) == whole
            before.close()
            assert begun + taken(before, 5 - batches) == whole


def test_the_state_is_one_integer_and_fits_another_batch(trees: Path) -> None:
    loader = turbomim.Loader(trees, **SMALL)
    begun = taken(loader, 2)
    state = loader.state_dict()
    assert state.pop("position") == 16
    assert state == {"split": loader._split.manifest.fingerprint, "seed": 0, "shuffle": "full"}
    other = turbomim.Loader(trees, **(SMALL | {"batch": 5, "size": 48}))
    other.load_state_dict(loader.state_dict())
    rest = ids_of(other)
    assert [len(ids) for ids in rest] == [5, 5, 5, 2]
    assert flat(begun + rest) == flat(ids_of(turbomim.Loader(trees, **SMALL)))


@pytest.mark.parametrize("world", [2, 3, 5])
def test_ranks_share_each_epoch(trees: Path, world: int) -> None:
    """As many batches, and as many samples in each, on every rank; fewer than `world` are left out."""
    loaders = [turbomim.Loader(trees, rank=rank, world=world, size=32, batch=4) for rank in range(world)]
    for epoch in range(2):
        each = [ids_of(loader) for loader in loaders]
        assert {len(batches) for batches in each} == {len(loaders[0])}
        assert len({tuple(map(len, batches)) for batches in each}) == 1
        seen = [sample for batches in each for ids in batches for sample in ids]
        assert len(seen) == len({*seen}) == SAMPLES - SAMPLES % world
        assert {loader.position for loader in loaders} == {(epoch + 1) * SAMPLES}


def test_another_number_of_ranks_goes_on(trees: Path) -> None:
    two = [turbomim.Loader(trees, rank=rank, world=2, size=32, batch=4) for rank in range(2)]
    begun = [taken(loader, 2) for loader in two]
    one = turbomim.Loader(trees, size=32, batch=4)
    one.load_state_dict(two[1].state_dict())
    assert two[0].state_dict() == two[1].state_dict()
    rest = flat(ids_of(one))
    assert sorted(flat(begun[0] + begun[1]) + rest) == list(range(SAMPLES))


def test_an_epoch_with_fewer_samples_left_than_ranks_is_over(trees: Path) -> None:
    """Planted, and seen to fail: the epoch of the position, whose `for` gave the next one."""
    state = turbomim.Loader(trees, **SMALL).state_dict()
    for left, epoch in ((1, 1), (2, 0)):
        loader = turbomim.Loader(trees, rank=0, world=2, **SMALL)
        loader.load_state_dict(state | {"position": SAMPLES - left})
        assert loader.epoch == epoch
        assert {int(number) for batch in loader for number in batch.epochs_B} == {epoch}
        assert loader.epoch == epoch + 1


def test_the_rank_is_that_of_the_program(trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for when the first batch is, as torch.distributed may be set up after the loader."""
    loader = turbomim.Loader(trees, **SMALL)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ids_of(loader) == ids_of(turbomim.Loader(trees, rank=1, world=2, **SMALL))


def test_ranks_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torchrun does not tell how many they are: as many as there are GPUs, or all."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert this_rank() == (3, 8, 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert this_rank() == (3, 8, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert this_rank() == (3, 8, 2)


def test_peeking_takes_a_batch(trees: Path) -> None:
    loader = turbomim.Loader(trees, **SMALL)
    peeked = next(iter(loader)).ids_B.tolist()
    assert sorted(peeked + flat(ids_of(loader))) == list(range(SAMPLES))


def test_dropped_it_leaves_no_thread(trees: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        for crop in ("src", "rrc"):
            loader = turbomim.Loader(trees, crop=crop, **SMALL)
            next(iter(loader))
            assert ours()
            del loader
            assert not ours()
    finally:
        gc.enable()


def damaged(split: Split, sample: int) -> Path:
    """The folder of a split, in which a sample is none any more; its times are as they were."""
    shard = split.shard_path(int(split.index.shard_N[sample]))
    times = shard.stat().st_atime_ns, shard.stat().st_mtime_ns
    with shard.open("r+b") as file:
        file.seek(int(split.index.image_offset_N[sample]))
        file.write(b"\0" * int(split.index.image_bytes_N[sample]))
    os.utime(shard, ns=times)
    return split.folder


def test_a_sample_that_does_not_decode_is_replaced_and_told(own_split: Split) -> None:
    """By a warning of Python's, or to whoever was named; the loader counts it."""
    trees = damaged(own_split, 3)
    loader = turbomim.Loader(trees, **SMALL)
    with pytest.warns(UserWarning, match=r"cannot be decoded .* replaced by") as warned:
        epoch = ids_of(loader)
    assert {warning.filename for warning in warned} == {__file__}
    assert sorted(flat(epoch)) == list(range(SAMPLES))
    assert loader.stats.replaced == 1 and loader.stats.samples == SAMPLES
    lines: list[str] = []
    with turbomim.Loader(trees, **SMALL, notify=lines.append) as told:
        assert ids_of(told) == epoch
    assert "replaced by" in "".join(lines)
    with pytest.raises(UserError, match=r"^1 of \d+ samples .* the limit is max_bad_share 0.0%"):
        ids_of(turbomim.Loader(trees, **SMALL, max_bad_share=0, notify=lines.append))
    with pytest.raises(UserError, match="limit is max_bad_row 1"):
        ids_of(turbomim.Loader(trees, **SMALL, max_bad_row=1, notify=lines.append))


def test_numpys_whole_numbers_are_taken(trees: Path) -> None:
    """Planted, and seen to fail: Python's integers alone, of which truth values are some."""
    asked = SMALL | {"size": np.int64(64), "batch": np.uint8(8)}
    batch = next(iter(turbomim.Loader(trees, **asked)))
    assert batch.images_BHWC.shape == (8, 64, 64, 3)


def test_fewer_samples_than_ranks(trees: Path) -> None:
    with pytest.raises(UserError, match="33 samples for 40 ranks"):
        ids_of(turbomim.Loader(trees, rank=0, world=40, **SMALL))


def test_without_labels_they_are_minus_one(photo_folder: Path, tmp_path: Path) -> None:
    turbomim.shard(photo_folder / "ash", tmp_path / "shards")
    loader = turbomim.Loader(tmp_path / "shards", **SMALL)
    assert loader.classes == ()
    assert {int(label) for batch in loader for label in batch.labels_B} == {-1}


def test_as_a_dataset_of_torch(trees: Path) -> None:
    """Dictionaries of whole batches; workers, which would give every batch each, are refused."""
    loader, whole = turbomim.Loader(trees, **SMALL), ids_of(turbomim.Loader(trees, **SMALL))
    data: Any = DataLoader(loader.dataset(), batch_size=None)
    assert len(data) == 5
    batches = list(data)
    assert [batch["ids_B"].tolist() for batch in batches] == whole
    assert list(batches[0]) == ["images_BHWC", "labels_B", "ids_B", "epochs_B"]
    state = loader.dataset().state_dict()
    assert state == loader.state_dict()
    loader.dataset().load_state_dict(state | {"position": 8})
    assert loader.position == 8
    for start in ("fork", "spawn"):
        with pytest.raises(UserError, match="num_workers must be 0"):
            list(DataLoader(loader.dataset(), batch_size=None, num_workers=1, multiprocessing_context=start))


@pytest.mark.parametrize("settings", [{}, {"batch_size": 4, "drop_last": True}], ids=["default", "four"])
def test_batches_are_not_collated_again(trees: Path, settings: dict[str, Any]) -> None:
    """There would be an axis too many.  Planted, and seen to fail: plain dictionaries."""
    with pytest.raises(UserError, match=r"^batch_size must be None in a DataLoader around a turbomim"):
        next(iter(DataLoader(turbomim.Loader(trees, **SMALL).dataset(), **settings)))


def test_it_brings_no_library_of_the_commands() -> None:
    look = "import sys, turbomim; turbomim.Loader; print(*{'tyro', 'rich', 'timm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_from_a_store_of_objects(photo_folder: Path, trees: Path, s3: str) -> None:
    turbomim.shard(photo_folder, f"{s3}/trees", shard_size=9)
    with turbomim.Loader(f"{s3}/trees", **SMALL) as far, turbomim.Loader(trees, **SMALL) as near:
        assert ids_of(far) == ids_of(near)


def test_a_cache_keeps_what_comes_from_a_store(
    photo_folder: Path, trees: Path, s3: str, tmp_path: Path
) -> None:
    """Whole shards, beside the same batches; no thread is left.  Planted: a loader without the filler."""
    turbomim.shard(photo_folder, f"{s3}/trees", shard_size=9)
    said: list[str] = []
    settings = SMALL | {"cache": tmp_path / "cache", "cache_gb": 1, "readers": 1, "notify": said.append}
    loader, local = turbomim.Loader(f"{s3}/trees", **settings), turbomim.Loader(trees, **SMALL)
    limit = time.monotonic() + 30
    while len(said) < 2:
        assert time.monotonic() < limit and ids_of(loader) == ids_of(local)
    assert said[0].startswith(f"cache {tmp_path}/cache: 0 of 4 shards, 0.0 % of the samples")
    assert said[1].startswith(f"cache {tmp_path}/cache: 4 of 4 shards, 100.0 % of the samples")
    assert "turbomim-cache" in ours()
    loader.close()
    assert "turbomim-cache" not in ours()
    for batch, same in zip(loader, local, strict=True):
        assert batch.images_BHWC.equal(same.images_BHWC)


@pytest.mark.parametrize("world", [1, 2])
def test_groups_share_a_batch(trees: Path, world: int) -> None:
    """Half of each batch is of each half of the split; on two ranks each has a half.

    Planted: groups that do not reach the stream, and a state without them.
    """
    settings: dict[str, Any] = {"groups": 2, "endless": True, "size": 32, "batch": 8 // world}
    loaders = [turbomim.Loader(trees, rank=rank, world=world, **settings) for rank in range(world)]
    for _ in range(5):
        ids = flat([taken(loader, 1)[0] for loader in loaders])
        assert [sample >= SAMPLES // 2 for sample in ids] == [False] * 4 + [True] * 4
    assert {loader.position for loader in loaders} == {40}
    with pytest.raises(UserError, match=r"has shuffle 'full, 2 groups' and this loader .* has 'full'"):
        turbomim.Loader(trees, **SMALL).load_state_dict(loaders[0].state_dict())
