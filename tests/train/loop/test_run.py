"""The loop: stopped and resumed it is bit-identical; ranks and threads change no sample.

Attempts run in processes forked from a server that has imported everything once, so that a launch takes well
under a second and a kill hits only the attempt.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.pipeline.loading import make_loader
from tests.runs import attempt, config_for, finish, free_port, launch, outcome, quiet, ranked

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split
from turbomim.train.folder import checkpoint
from turbomim.train.folder.log import read_metrics
from turbomim.train.folder.rundir import lock_run
from turbomim.train.models.mae import MAE
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.plan import make_plan
from turbomim.train.world.distributed import join_ranks


@pytest.fixture
def shuffled(photo_folder: Path, tmp_path: Path) -> Path:
    """The same photographs in another order: another data set."""
    make_shards(photo_folder, tmp_path / "shuffled", ShardSettings(seed=1))
    return tmp_path / "shuffled"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2], ids=lambda n: n.name)
def test_a_signal_ends_with_a_checkpoint_and_resumes(trees: Path, tmp_path: Path, number: int) -> None:
    config = config_for(trees, tmp_path, run={"save_every": 10_000})
    folder = tmp_path / "r"
    process = launch(attempt, config)
    while len(read_metrics(folder / "metrics.jsonl")) < 3:
        assert process.is_alive()
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finish(process) == 0
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "preempted"
    found, _ = checkpoint.newest(folder / "ckpt")
    assert found is not None and checkpoint.read_state(found).step == status["step"]
    assert read_metrics(folder / "metrics.jsonl")[-1]["step"] == status["step"]
    assert finish(launch(attempt, config)) == 0
    assert finish(launch(attempt, config_for(trees, tmp_path / "whole"))) == 0
    assert outcome(folder) == outcome(tmp_path / "whole" / "r")


def stream(path: Path, out: Path, rank: int, world: int, port: int, threads: int, steps: int) -> None:
    """Write what a rank sees and masks in its first steps: ids, epochs, pixels, kept patches."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    config = config_for(path, out, optim={"micro_batch": 4})
    with join_ranks("cpu") as here:
        plan = make_plan(config, 1, here.size)
        model = MAE(config)
        with make_loader(
            open_split(path), size=32, seed=0, global_batch=8, micro_batch=4, rank=here.rank, world=here.size,
            start=0, device="cpu", threads=threads, readers=threads, prefetch=2,
        ) as loader:  # fmt: skip
            batches = [next(loader) for _ in range(steps * plan.micro_steps)]
        masks = [model.random_masking(b.epochs_B, b.ids_B)[0] for b in batches]
        here.barrier()
    np.savez(
        out / f"{threads}-{world}-{rank}.npz",
        ids=torch.stack([b.ids_B for b in batches]),
        epochs=torch.stack([b.epochs_B for b in batches]),
        pixels=torch.stack([b.images_BHWC for b in batches]),
        masks=torch.stack(masks),
    )


def test_samples_crops_and_masks_do_not_depend_on_threads_or_ranks(trees: Path, tmp_path: Path) -> None:
    """Of 1, 2 and 3 loader threads, 1 and 2 gloo ranks."""
    steps = 9
    cases = [(1, 1), (2, 1), (3, 1), (1, 2)]
    for threads, world in cases:
        port = free_port()
        ranks = [launch(stream, trees, tmp_path, r, world, port, threads, steps) for r in range(world)]
        assert [finish(p) for p in ranks] == [0] * world
    single = np.load(tmp_path / "1-1-0.npz")
    assert single["epochs"].max() > 0, "the test must cross an epoch"
    assert len(np.unique(single["masks"].reshape(-1, 4), axis=0)) > steps
    for threads in (2, 3):
        other = np.load(tmp_path / f"{threads}-1-0.npz")
        for key in single.files:
            assert np.array_equal(single[key], other[key]), (threads, key)
    halves = [np.load(tmp_path / f"1-2-{rank}.npz") for rank in (0, 1)]
    for key in single.files:
        # a step is two micro-batches on one rank, one on each of two
        together = np.stack([half[key] for half in halves], 1).reshape(single[key].shape)
        assert np.array_equal(single[key], together), key


def test_what_rank_0_refuses_ends_every_rank(trees: Path, tmp_path: Path) -> None:
    """The other rank must not wait for one that is gone."""
    pretrain(config_for(trees, tmp_path, optim={"epochs": 1}), console=quiet())
    changed = config_for(trees, tmp_path, optim={"epochs": 1}, model={"radius": 5.0})
    port = free_port()
    begun = time.monotonic()
    assert [finish(p) for p in [launch(ranked, changed, rank, 2, port) for rank in (0, 1)]] == [1, 1]
    assert time.monotonic() - begun < 60


def test_every_rank_trains_with_the_settings_of_rank_0(trees: Path, tmp_path: Path) -> None:
    """Another batch would not divide, and another seed would mix two orders without a word."""
    alike = config_for(trees, tmp_path / "alike", optim={"epochs": 1})
    own = config_for(trees, tmp_path / "own", optim={"epochs": 1})
    other = config_for(trees, tmp_path / "own", optim={"epochs": 1, "global_batch": 7}, run={"seed": 1})
    for configs in ((alike, alike), (own, other)):
        port = free_port()
        ranks = [launch(ranked, config, rank, 2, port) for rank, config in enumerate(configs)]
        assert [finish(process) for process in ranks] == [0, 0]
    assert outcome(tmp_path / "own" / "r") == outcome(tmp_path / "alike" / "r")


@pytest.mark.timeout(900)
def test_ranks_compile_too(trees: Path, tmp_path: Path) -> None:
    """The compiled step inside DDP gives the losses of the plain one on a single rank."""
    sections: dict[str, dict[str, Any]] = {"optim": {"epochs": 1}, "model": {"depth": 1}}
    port = free_port()
    compiled = config_for(trees, tmp_path / "two", step={"compile": True}, **sections)
    ranks = [launch(ranked, compiled, rank, 2, port) for rank in (0, 1)]
    # before 2.15 torch simplifies indices for a minute of a core in every process
    assert [finish(process, seconds=400) for process in ranks] == [0, 0]
    pretrain(config_for(trees, tmp_path / "one", **sections), console=quiet())
    one, two = (
        [r["loss"] for r in read_metrics(tmp_path / name / "r" / "metrics.jsonl")] for name in ("one", "two")
    )
    assert two == pytest.approx(one, abs=1e-5)


def test_loss_falls_and_the_run_folder_is_complete(trees: Path, tmp_path: Path) -> None:
    config = config_for(trees, tmp_path, data={"heldout": str(trees)}, run={"eval_every": 10})
    result = pretrain(config, console=quiet())
    assert result.status == "done"
    records = read_metrics(result.folder / "metrics.jsonl")
    assert np.mean([r["loss"] for r in records[-4:]]) < 0.97 * np.mean([r["loss"] for r in records[:4]])
    assert sum(r.get("heldout_loss") is not None for r in records) == result.steps // 10 + (
        result.steps % 10 > 0
    )
    assert all(r["img_per_s"] > 0 and 0 <= r["data_wait_pct"] <= 100 for r in records)
    names = {"config.yaml", "env.json", "status.json", "metrics.jsonl", "train.log", "ckpt", "export"}
    assert names <= {p.name for p in result.folder.iterdir()}
    again = pretrain(config, console=quiet())
    assert (again.status, again.step) == ("done", result.steps)
    assert read_metrics(result.folder / "metrics.jsonl") == records


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optim": {"micro_batch": 3}}, r"optim.micro_batch = 3 does not divide the 8 samples of a rank"),
        ({"data": {"path": ""}}, r"data.path is empty: give the folder"),
        ({"data": {"path": "/nowhere"}}, r"--data.path /nowhere does not exist: give the folder"),
        ({"data": {"heldout": "/nowhere"}}, r"--data.heldout /nowhere does not exist: give the folder"),
        ({"step": {"device": "cuda"}}, r"device 'cuda' was asked for, but torch finds no GPU"),
    ],
    ids=["micro-batch", "no path", "nowhere", "held-out nowhere", "no gpu"],
)
def test_bad_runs_are_one_line(
    trees: Path, tmp_path: Path, sections: dict[str, dict[str, Any]], message: str
) -> None:
    if "device" in sections.get("step", {}) and torch.cuda.is_available():
        sections = {"optim": {"micro_batch": 5}}
        message = "does not divide"
    with pytest.raises(UserError, match=message) as error:
        pretrain(config_for(trees, tmp_path, **sections), console=quiet())
    assert "\n" not in str(error.value)


def test_ranks_that_do_not_divide_the_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"optim.global_batch = 8 does not divide over 3 ranks: use a multiple of 3"
    ):
        make_plan(config_for(tmp_path, tmp_path), 100, 3)


def test_no_compiler_says_how_to_go_on(trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbomim.train.machine.compiler.find_compiler", lambda: None)
    config = config_for(trees, tmp_path, step={"compile": True})
    with pytest.raises(UserError, match=r"install g\+\+, or go on more slowly with --step.compile false"):
        pretrain(config, console=quiet())


def test_other_settings_or_other_data_do_not_resume(trees: Path, shuffled: Path, tmp_path: Path) -> None:
    config = config_for(trees, tmp_path, optim={"epochs": 1})
    pretrain(config, console=quiet())
    changed = config_for(trees, tmp_path, optim={"epochs": 1}, model={"radius": 5.0})
    with pytest.raises(UserError, match=r"other settings \(model.radius: 6.0 -> 5.0\)"):
        pretrain(changed, console=quiet())
    moved = config_for(shuffled, tmp_path, optim={"epochs": 1})
    with pytest.raises(UserError, match=r"is not the data set of .*step-.*fingerprint"):
        pretrain(moved, console=quiet())


def test_a_run_in_use_is_refused(trees: Path, tmp_path: Path) -> None:
    config = config_for(trees, tmp_path)
    words = rf"r' is in use by process {os.getpid()} on \S+: wait for its end, or give another --run.name"
    with lock_run(config):
        # the second time too: whoever was refused has not wiped the owner's name
        for _ in range(2):
            with pytest.raises(UserError, match=words):
                pretrain(config, console=quiet())
