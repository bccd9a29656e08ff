"""What `turbomim.Loader` refuses: settings, places, devices, states of other samples, forks.

Planted: `load_state_dict` without the comparison, which fails `test_the_state_of_other_samples_is_refused`.
"""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.api.test_loader import SMALL, ids_of, ours

import turbomim
from turbomim.pipeline.system.errors import UserError


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "the state has seed 1 and this loader of '.*' has 0"),
        ({"shuffle": "window"}, "shuffle 'windows of 16 shards' and .* has 'full'"),
        ({"position": -1}, "position = -1: must be a whole number from 0 on"),
        ({"position": "7"}, "position = '7': must be"),
        ({"position": 10**12}, "position = 1000000000000: must be .*, below 141,733,920,768"),
    ],
)
def test_the_state_of_other_samples_is_refused(trees: Path, changes: dict[str, Any], words: str) -> None:
    loader = turbomim.Loader(trees, **SMALL)
    state = loader.state_dict()
    if "position" in changes:
        state |= changes
    else:
        state = turbomim.Loader(trees, **(SMALL | changes)).state_dict()
    with pytest.raises(UserError, match=words) as caught:
        loader.load_state_dict(state)
    assert "\n" not in str(caught.value)
    for no_state in ({}, {"model": 1}):
        with pytest.raises(UserError, match="no state of a Loader"):
            loader.load_state_dict(no_state)
    with pytest.raises(UserError, match=r"^state_dict = None: must be what state_dict\(\) gives$"):
        loader.load_state_dict(None)  # type: ignore[arg-type]


def test_the_state_of_another_split_is_refused(trees: Path, own_trees: Path, photo_folder: Path) -> None:
    state = turbomim.Loader(own_trees, **SMALL).state_dict()
    # a copy is the same data
    turbomim.Loader(trees, **SMALL).load_state_dict(state)
    shutil.rmtree(own_trees)
    turbomim.shard(photo_folder, own_trees, shard_size=9, seed=1)
    with pytest.raises(UserError, match=r"the state has split '.*' and .* give it the same split"):
        turbomim.Loader(own_trees, **SMALL).load_state_dict(state)


def test_an_error_leaves_it_where_it_was(own_trees: Path) -> None:
    """A shard that cannot be read ends a `for` and all threads; once it is back, the next one goes on."""
    loader, found = turbomim.Loader(own_trees, **SMALL), list[list[int]]()
    shard, kept = own_trees / "trees-train-000001.tar", own_trees / "kept"
    shard.rename(kept)
    with pytest.raises(UserError) as caught:
        for batch in loader:
            found.append(batch.ids_B.tolist())
    assert "\n" not in str(caught.value) and not ours()
    kept.rename(shard)
    assert found + ids_of(loader) == ids_of(turbomim.Loader(own_trees, **SMALL))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 0}, "batch = 0: must be at least 1"),
        ({"batch": 2.5}, "batch = 2.5: must be a whole number"),
        ({"size": "64"}, "size = '64': must be a whole number"),
        ({"seed": 1.5}, "seed = 1.5: must be a whole number"),
        ({"window": True}, "window = True: must be a whole number"),
        ({"size": 4}, "size = 4: must be at least 9"),
        ({"crop": "centre"}, "crop = 'centre': must be src or rrc"),
        ({"rrc_scale": 2}, "rrc_scale = 2: must be above 0"),
        ({"interpolation": "nearest"}, "interpolation = 'nearest': must be"),
        ({"shuffle": "no"}, "shuffle = 'no': must be full or window"),
        ({"window": 0}, "window = 0: must be at least 1"),
        ({"seed": -1}, "seed"),
        ({"rank": 0}, "give both or none"),
        ({"rank": 2, "world": 2}, "rank = 2: must be"),
        ({"rank": 0, "world": 2.0}, "world = 2.0: must be a whole number"),
        ({"threads": -1}, "threads = -1: must be"),
        ({"prefetch": -1}, "prefetch = -1: must be"),
        ({"decode": "gpu"}, "decode = 'gpu': must be"),
        ({"device": "gpu"}, "device = 'gpu': must be auto, cpu, cuda or cuda:NUMBER"),
        ({"device": "meta"}, "device = 'meta': must be auto, cpu, cuda or cuda:NUMBER"),
        ({"device": "cuda:99"}, "device 'cuda:99' was asked for, but torch finds"),
        ({"max_bad_share": 2}, "max_bad_share = 2"),
        ({"max_bad_row": 0}, "max_bad_row = 0"),
        ({"threads": "2"}, "threads = '2': must be a whole number"),
        ({"prefetch": 1.5}, "prefetch = 1.5: must be a whole number"),
        ({"rrc_scale": "0.5"}, "rrc_scale = '0.5': must be a number"),
        ({"max_bad_share": "0"}, "max_bad_share = '0': must be a number"),
        ({"notify": "print"}, "notify = 'print': must be a function"),
        ({"readers": -1}, "readers = -1: must be 0 .automatic. or more"),
        ({"groups": 2}, "groups = 2: must be 1 without endless=True"),
        ({"groups": 0}, "groups = 0: must be at least 1"),
        ({"groups": 3, "endless": True}, "groups = 3: must be a divisor of the global batch, 8"),
        ({"groups": 8, "endless": True}, "groups = 8 is more than the 4 shards of the split"),
        ({"cache": "c"}, "cache = 'c', data.cache_gb = 0: give both"),
        ({"cache_gb": "1"}, "cache_gb = '1': must be a number"),
        ({"cache": "c", "cache_gb": 1}, "the shards are in a folder already"),
    ],
)
def test_what_cannot_be_is_refused_at_once(trees: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        turbomim.Loader(trees, **(SMALL | changes))
    assert "\n" not in str(caught.value)


def test_a_place_without_shards_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no manifest"):
        turbomim.Loader(tmp_path)
    with pytest.raises(UserError, match="a URL has :// after its scheme"):
        turbomim.Loader("s3:/bucket/shards")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_at_once(trees: Path) -> None:
    for device in ("cuda", "cuda:0", torch.device("cuda", 0)):
        with pytest.raises(UserError, match="torch finds no GPU"):
            turbomim.Loader(trees, device=device)


def test_the_gpu_must_be_the_current_one_and_is_not_opened_early(
    trees: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank makes its loader before it has chosen its GPU."""
    asked: list[str] = []

    def current_device() -> int:
        asked.append("asked")
        return 0

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", current_device)
    turbomim.Loader(trees, device="cuda", **SMALL)
    assert not asked
    turbomim.Loader(trees, device="cuda:0", **SMALL)
    with pytest.raises(
        UserError, match=r"'cuda:1' is not torch's current one, cuda:0: call .*set_device\(1\)"
    ):
        turbomim.Loader(trees, device="cuda:1", **SMALL)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_in_the_middle_is_refused(trees: Path) -> None:
    """It has none of the threads: it would wait for ever."""
    loader = turbomim.Loader(trees, **SMALL)
    batches = iter(loader)
    next(batches)
    child = os.fork()
    if not child:
        signal.alarm(10)
        try:
            next(batches)
        except UserError as error:
            os._exit(7 if "forked" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(next(batches).ids_B) == 8
