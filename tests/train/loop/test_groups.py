"""Runs in groups: 1, 2 and 4 ranks take the same samples, crops and masks, and have the same losses.

Planted bugs that fail here: places not sorted by group, groups that never reach the loader, groups that may
change on resume.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import SAMPLES_PER_SHARD
from tests.runs import as_rank, attempt, config_for, finish, launch, launch_ranks, losses, quiet, run

from turbomim.benchmarks.stores.fault_proxy import fault_proxy
from turbomim.benchmarks.stores.weed import Weed
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.stream.groups import groups_of, share_of
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint
from turbomim.train.loop.shares import about_groups
from turbomim.train.models.mae import MAE
from turbomim.train.pretrain.dry_run import price
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config

# two epochs and a half of 33 samples
STEPS = 10


def settings(groups: int, **run_settings: Any) -> dict[str, dict[str, Any]]:
    """Ten steps of 8 samples."""
    return {
        "data": {"groups": groups},
        "optim": {"epochs": 8 * STEPS / 33 - 0.01, "micro_batch": 2},
        "run": run_settings,
    }


def record_batches(config: Config, rank: int, world: int, port: int) -> None:
    """Train as a rank, and write down what it was given: samples, crops, masks; and open shards."""
    as_rank(rank, world, port)
    batches = list[Batch]()
    opened = set[str]()

    class Recording(Loader):
        def __next__(self) -> Batch:
            batches.append(super().__next__())
            for name in os.listdir("/proc/self/fd"):
                # another thread may have closed it
                with contextlib.suppress(FileNotFoundError):
                    opened.add(os.readlink(f"/proc/self/fd/{name}").rpartition("/")[2])
            return batches[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("turbomim.train.loop.data.Loader", Recording)
        attempt(config)
    masks = [MAE(config).random_masking(batch.epochs_B, batch.ids_B)[0] for batch in batches]
    np.savez(
        Path(config.run.folder, f"rank-{rank}.npz"),
        ids=torch.stack([batch.ids_B for batch in batches]),
        epochs=torch.stack([batch.epochs_B for batch in batches]),
        images=torch.stack([batch.images_BHWC for batch in batches]),
        kept=torch.stack(masks),
        shards=sorted(name for name in opened if name.endswith(".tar")),
    )


def record_from_store(config: Config, stores: list[dict[str, str]], rank: int, world: int, port: int) -> None:
    """`record_batches` where each rank has a store of its own to ask."""
    os.environ.update(stores[rank])
    record_batches(config, rank, world, port)


Launch = Callable[[int, int], Path]


@pytest.fixture(scope="module")
def launch_recorded(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """The folder of runs after one in so many groups, on so many ranks; each is made once."""
    made = dict[tuple[int, int], Path]()

    def folder_of(groups: int, world: int) -> Path:
        if (groups, world) not in made:
            runs = tmp_path_factory.mktemp(f"{groups}-groups-{world}-ranks")
            config = config_for(tiny_split.folder, runs, **settings(groups))
            processes = launch_ranks(record_batches, world, config)
            assert [finish(process) for process in processes] == [0] * world
            made[groups, world] = runs
        return made[groups, world]

    return folder_of


def of_ranks(runs: Path, world: int, name: str) -> np.ndarray[Any, Any]:
    """What the ranks wrote, row by row as one rank has it: (steps, samples of a step, ...)."""
    ranks = [np.load(runs / f"rank-{rank}.npz")[name] for rank in range(world)]
    return np.concatenate([rank.reshape(STEPS, 8 // world, *rank.shape[2:]) for rank in ranks], 1)


@pytest.mark.parametrize(("groups", "world"), [(4, 2), (4, 4), (2, 2), (2, 4)])
def test_ranks_see_the_same_and_their_own_shards(
    launch_recorded: Launch, tiny_split: Split, groups: int, world: int
) -> None:
    one, several = launch_recorded(groups, 1), launch_recorded(groups, world)
    for name in ("ids", "epochs", "images", "kept"):
        assert np.array_equal(of_ranks(several, world, name), of_ranks(one, 1, name)), name
    assert len(losses(one / "r")) == STEPS
    assert losses(several / "r") == pytest.approx(losses(one / "r"), abs=1e-6, rel=0)
    names = [shard.name for shard in tiny_split.manifest.shards]
    for rank in range(world):
        met = groups_of(rank, world, groups)
        own = range(share_of(met[0], groups, 33).start, share_of(met[-1], groups, 33).stop)
        written = np.load(several / f"rank-{rank}.npz")
        assert set(written["ids"].ravel().tolist()) <= set(own)
        homes = names[own.start // SAMPLES_PER_SHARD : (own.stop - 1) // SAMPLES_PER_SHARD + 1]
        assert written["shards"].tolist() == homes != names


@pytest.mark.parametrize("world", [2, 4])
def test_a_rank_asks_a_store_for_its_shards_alone(
    launch_recorded: Launch, tiny_split: Split, trees: Path, s3: str, store: Weed, tmp_path: Path, world: int
) -> None:
    """By the logs of a proxy for each rank; and all is as it is from the disk, bit for bit."""
    place = open_place(s3)
    for path in trees.iterdir():
        place.put(path.name, path)
    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(fault_proxy(store.endpoint)) for _ in range(world)]
        stores = [proxy.environment for proxy in proxies]
        config = config_for(trees, tmp_path, **settings(4) | {"data": {"groups": 4, "path": s3}})
        processes = launch_ranks(record_from_store, world, config, stores)
        assert [finish(process) for process in processes] == [0] * world
    from_disk = launch_recorded(4, world)
    for name in ("ids", "epochs", "images", "kept"):
        assert np.array_equal(of_ranks(tmp_path, world, name), of_ranks(from_disk, world, name)), name
    assert losses(tmp_path / "r") == losses(from_disk / "r")
    for rank, proxy in enumerate(proxies):
        asked = {Path(path).name for path in proxy.sent if path.endswith(".tar")}
        assert asked == set(np.load(from_disk / f"rank-{rank}.npz")["shards"].tolist())
        # rank 0 tells the others where samples lie
        indexes = sorted(Path(path).name for path in proxy.sent if path.endswith(".idx"))
        assert indexes == ([] if rank else sorted(path.name for path in trees.glob("*.idx")))


def test_groups_are_another_run(launch_recorded: Launch) -> None:
    in_two, in_four = (of_ranks(launch_recorded(groups, 1), 1, "ids") for groups in (2, 4))
    assert not np.array_equal(in_two, in_four)
    # 33 samples in groups of 8, 8, 8 and 9: after 4 steps all but one were seen, none twice
    assert len(np.unique(in_four[:4])) == 32


def test_a_run_goes_on_on_other_ranks(launch_recorded: Launch, trees: Path, tmp_path: Path) -> None:
    whole = launch_recorded(4, 1)
    run(config_for(trees, tmp_path, **settings(4, save_every=3, keep=9)), 2)
    for path in checkpoint.complete(tmp_path / "r" / "ckpt"):
        if checkpoint.read_state(path).step > 6:
            shutil.rmtree(path)
    run(config_for(trees, tmp_path, **settings(4, save_every=3, keep=9)), 4)
    assert "resumed from" in (tmp_path / "r" / "train.log").read_text()
    assert losses(tmp_path / "r") == pytest.approx(losses(whole / "r"), abs=1e-6, rel=0)


def test_other_groups_do_not_resume(trees: Path, tmp_path: Path) -> None:
    assert finish(launch(attempt, config_for(trees, tmp_path, **settings(4)))) == 0
    with pytest.raises(UserError, match=r"other settings \(data\.groups: 4 -> 2\): give the old ones"):
        pretrain(config_for(trees, tmp_path, **settings(2)), console=quiet())
    log = (tmp_path / "r" / "train.log").read_text()
    assert "rank 0: groups 0 to 3 of 4, shards 0 to 3 of 4 (100.0 %)" in log


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (3, r"optim\.global_batch = 8 does not divide over data\.groups = 3: use a multiple of 3"),
        (8, r"data\.groups = 8 is more than the 4 shards of --data\.path .*: use 4 at most, or make smaller"),
    ],
)
def test_groups_that_cannot_be_are_one_line(trees: Path, tmp_path: Path, groups: int, message: str) -> None:
    config = config_for(trees, tmp_path, **settings(groups))
    with pytest.raises(UserError, match=message) as error:
        pretrain(config, console=quiet(), dry_run=True)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=message):
        price(config, ranks=1, img_per_s=None, preset=None)


def test_what_ranks_read_is_said(
    tiny_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert about_groups(1, tiny_split, 4) == []
    assert about_groups(2, tiny_split, 4) == [
        "ranks 0 to 1: group 0 of 2, shards 0 to 1 of 4 (50.0 %)",
        "ranks 2 to 3: group 1 of 2, shards 1 to 3 of 4 (75.0 %)",
    ]
    assert about_groups(2, tiny_split, 3)[1] == "rank 1: groups 0 to 1 of 2, shards 0 to 3 of 4 (100.0 %)"
    config = config_for(tiny_split.folder, tmp_path, **settings(4))
    price(config, ranks=2, img_per_s=None, preset=None)
    said = " ".join(capsys.readouterr().out.split())
    assert "rank 0: groups 0 to 1 of 4, shards 0 to 1 of 4 (50.0 %)" in said
