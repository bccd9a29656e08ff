"""Runs with a cache of shards: the same losses whatever is kept, and bad settings in one line.

Planted bugs that fail here: a cache that reads another shard's file, a run that refuses to go on with another
cache, settings that are not checked.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.pipeline.tars.caches import filled
from tests.pipeline.tars.counted_place import CountedPlace
from tests.runs import attempt, config_for, finish, launch, outcome, quiet, records

from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.loop.shares import with_cache
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.world.distributed import World


@pytest.fixture
def far(trees: Path, s3: str) -> str:
    """The photographs of trees in a store of objects."""
    place = open_place(s3)
    for path in sorted(trees.iterdir()):
        place.put(path.name, path)
    return s3


def attempt_with(environment: dict[str, str], config: Config) -> None:
    """An attempt that has what gives it access to the store; processes begin with what the first one had."""
    os.environ.update(environment)
    attempt(config)


def run(config: Config) -> None:
    """Run to the end, in a process."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    assert finish(launch(attempt_with, environment, config)) == 0


def test_the_same_losses_whatever_is_kept(far: str, trees: Path, tmp_path: Path) -> None:
    steps = {"epochs": 20 * 8 / 33}
    run(config_for(trees, tmp_path / "disk", optim=steps))
    expected = outcome(tmp_path / "disk" / "r")
    for kept, share in {0: "0.0 %", 2: "54.5 %", 4: "100.0 %"}.items():
        runs, folder = tmp_path / f"{kept} kept", tmp_path / f"cache {kept}"
        # a cold one is filled beside the run
        space = filled(open_split(far), folder, kept).space / 1e9 if kept else 1.0
        run(
            config_for(Path(), runs, data={"path": far, "cache": str(folder), "cache_gb": space}, optim=steps)
        )
        assert outcome(runs / "r") == expected
        assert (
            f"cache {folder}: {kept} of 4 shards, {share} of the samples"
            in (runs / "r" / "train.log").read_text()
        )
        assert len([*folder.rglob("*.tar")]) == kept or not kept
        # of windows in which something was read; a cold cache may be filled at any time
        hits = {record["cache_hit_pct"] for record in records(runs / "r")} - {None}
        assert hits and (hits == {100} if kept == 4 else not kept or min(hits) < 100)


def test_a_run_goes_on_with_another_cache(far: str, tmp_path: Path) -> None:
    data = {"path": far, "cache": str(tmp_path / "c"), "cache_gb": 1.0}
    run(config_for(Path(), tmp_path, data=data, optim={"epochs": 2}, run={"save_every": 3}))
    run(config_for(Path(), tmp_path, data={"path": far}, optim={"epochs": 2}))


@pytest.mark.parametrize("local_size", [1, 2], ids="{} ranks a machine".format)
def test_a_machine_keeps_the_shards_of_its_groups(local_size: int, tiny_split: Split, tmp_path: Path) -> None:
    far = replace(tiny_split, tars=CountedPlace(tiny_split.folder))
    data = DataConfig(groups=2, cache=str(tmp_path), cache_gb=1.0)
    read = list[list[int]]()
    for rank in range(4):
        world = World(rank=rank, size=4, local_size=local_size, device=torch.device("cpu"))
        cache = with_cache(data, far, world).cache
        assert cache is not None
        read.append(list(cache.wanted))
    # 33 samples in shards of 9, 9, 9 and 6: one is in both halves
    assert read == [[0, 1], [0, 1], [1, 2, 3], [1, 2, 3]]


def test_bad_settings_are_one_line(trees: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.cache = '/c', data.cache_gb = 0: give both"):
        DataConfig(cache="/c")
    with pytest.raises(UsageError, match=r"data.cache = '', data.cache_gb = 5: give both"):
        DataConfig(cache_gb=5)
    config = config_for(trees, tmp_path, data={"cache": str(tmp_path / "c"), "cache_gb": 1.0})
    with pytest.raises(UserError, match=f"the shards are in a folder already, {trees}, .*: leave data.cache"):
        pretrain(config, console=quiet())
    assert not (tmp_path / "c").exists() and not (tmp_path / "r").exists()
