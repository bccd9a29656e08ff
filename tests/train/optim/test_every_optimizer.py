"""Every optimizer: killed and resumed bit for bit, on one rank, on two, and split over two.

AdamW's runs are those of all other tests of the loop.

Planted, each seen to fail: rows orthogonalised by the rank that has them, a momentum that a checkpoint lacks;
LAMB's count of steps kept in its groups alone (`test_a_roll_back_takes_weights_and_state`).
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import OPTIMIZERS, config_for, finish, launch_ranks, losses, outcome, run
from tests.train.loop.test_faults_numbers import bad_data
from tests.train.optim.test_groups import batch_of

from turbomim.train.folder import checkpoint
from turbomim.train.loop.checkpoints import load_good_weights
from turbomim.train.loop.step import Step
from turbomim.train.models.methods import make_model
from turbomim.train.optim.average import Average
from turbomim.train.optim.make import ALONE, make_optimizer
from turbomim.train.optim.state import optimizer_tensors


def settings(name: str) -> dict[str, dict[str, Any]]:
    """Eight clipped steps of an optimizer; three blocks, so that two ranks have no equal shares."""
    return {
        "model": {"depth": 3},
        "optim": {"epochs": 2, "base_lr": 0.02, "clip_grad": 0.2, "name": name},
        "run": {"save_every": 3, "name": name, "save_in_background": False},
    }


@pytest.fixture(scope="module", params=[name for name in OPTIMIZERS if name != "adamw"])
def whole(request: pytest.FixtureRequest, trees: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all steps on one rank, of a run that has its optimizer's name."""
    runs, name = tmp_path_factory.mktemp("whole"), str(request.param)
    run(config_for(trees, runs, **settings(name)))
    return runs / name


def state(folder: Path) -> dict[str, torch.Tensor]:
    last = checkpoint.complete(folder / "ckpt")[0]
    return {**load_file(last / checkpoint.FILES[0]), **load_file(last / checkpoint.FILES[1])}


@pytest.mark.parametrize(
    ("world", "shard"), [(1, False), (2, False), (2, True)], ids=["one rank", "DDP", "sharded"]
)
def test_killed_and_resumed(trees: Path, whole: Path, tmp_path: Path, world: int, shard: bool) -> None:
    """Killed before step 6, resumed from step 3; ranks change no more than float32 rounds.

    On one rank all is that of the whole run, on two at least steps 4 and 5 are those of the first attempt.
    """
    config = config_for(trees, tmp_path, **settings(whole.name), step={"shard": shard})
    processes = launch_ranks(bad_data, world, config, 0, 0, (6, signal.SIGKILL))
    assert [finish(process) for process in processes] == [-signal.SIGKILL] * world
    folder = tmp_path / whole.name
    before = losses(folder)
    assert len(before) == 5
    run(config, world)
    assert "resumed from" in (folder / "train.log").read_text()
    assert losses(folder)[:5] == before
    if world == 1:
        assert outcome(folder) == outcome(whole)
    assert losses(folder) == pytest.approx(losses(whole), abs=2e-5)
    ours, theirs = state(folder), state(whole)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, atol=1e-4, rtol=1e-2, msg=key)


@pytest.mark.parametrize("good", [0, 2], ids=["to the start", "to a checkpoint"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_roll_back_takes_weights_and_state(trees: Path, tmp_path: Path, name: str, good: int) -> None:
    """Steps 3 and 4, taken once more after a roll-back, have the same bits: of a new optimizer 1 and 2."""
    config = config_for(trees, tmp_path, **settings(name))
    model = make_model(config)
    optimizer = make_optimizer(model, config.optim)
    step = Step(model, optimizer, config.step, ALONE, 1, config.optim.clip_grad)

    def two_steps() -> dict[str, torch.Tensor]:
        for seed in (1, 2):
            step([batch_of(config, 8, seed)], 0.01)
        after = {**model.state_dict(), **optimizer_tensors(model, optimizer)}
        return {key: tensor.clone() for key, tensor in after.items()}

    before = two_steps()
    if good:
        state = checkpoint.State(step=good, position=16, fingerprint="", config={}, versions={})
        checkpoint.write(tmp_path, checkpoint.capture(model, optimizer, state), 2)
        before = two_steps()
    two_steps()
    load_good_weights(tmp_path, good, config, model, optimizer, Average(model, config.optim.ema))
    after = two_steps()
    assert after.keys() == before.keys()
    assert [key for key, tensor in before.items() if not torch.equal(after[key], tensor)] == []
