"""What is not finite never reaches the weights, and a long row of it rolls back.

Planted bugs and the test that fails on each: an optimizer that does not see the flag (no `found_inf`) fails
`test_a_step_that_is_not_finite_changes_nothing`; a roll-back that keeps the moments, or that takes the
newest checkpoint whenever it was written, fails `test_a_row_of_bad_data_is_rolled_back_and_passed_over` or
`test_killed_or_stopped_around_the_bad_row_it_rolls_back_at_the_same_step`; checkpoints written within a row
fail `test_a_weight_that_goes_bad_in_memory_is_repaired`; a count of roll-backs that a resumed run forgets
fails `test_killed_or_stopped_…` and one without a limit `test_the_fourth_roll_back_is_an_error`; a loss of 0
for steps that were all skipped fails `test_a_row_of_bad_data_…`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import (
    OPTIMIZERS,
    attempt,
    config_for,
    finish,
    launch,
    launch_ranks,
    outcome,
    quiet,
    ranked,
    records,
    run,
    status,
)
from torch._subclasses.fake_tensor import FakeTensor

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint
from turbomim.train.loop.checkpoints import MAX_ROLLBACKS
from turbomim.train.loop.step import Step
from turbomim.train.models.mae import MAE
from turbomim.train.pictures.plot import series
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config

pytestmark = pytest.mark.usefixtures("one_thread")

ROW = 4


def rolling(data: Path, runs: Path, /, **sections: dict[str, Any]) -> Config:
    """41 steps, a look at every third, a checkpoint at every second, back after a row of four."""
    optim = {"max_skipped": ROW, **sections.pop("optim", {})}
    return config_for(
        data, runs, run={"log_every": 3, "save_every": 2, **sections.pop("run", {})}, optim=optim
    )


def bad_data(
    config: Config, first: int, last: int, dies: tuple[int, int] | None, *rank_and_port: int
) -> None:
    """An attempt whose data of the steps from `first` to `last`, counted from 1, makes the loss infinite.

    dies: a step before which the process sends itself a signal, and that signal.
    """
    real_step, real_loss, bad = Step.__call__, MAE.forward_loss, False

    def step(self: Step, batches: list[Batch], lr: float) -> Any:
        nonlocal bad
        number = batches[0].position // config.optim.global_batch + 1
        bad = first <= number <= last
        if dies is not None and number == dies[0]:
            os.kill(os.getpid(), dies[1])
        return real_step(self, batches, lr)

    def loss(self: MAE, *args: Any) -> Any:
        return real_loss(self, *args) * (float("inf") if bad else 1.0)

    setattr(Step, "__call__", step)  # noqa: B010
    setattr(MAE, "forward_loss", loss)  # noqa: B010
    ranked(config, *rank_and_port) if rank_and_port else attempt(config)


def tensors(folder: Path, step: int) -> dict[str, bytes]:
    return {name: (folder / "ckpt" / f"step-{step:08d}" / name).read_bytes() for name in checkpoint.FILES[:2]}


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str, value: float
) -> None:
    """Step 5: weights, moments and counts keep their bits, and the step after it changes them again."""
    real_step, real_loss = Step.__call__, MAE.forward_loss
    kept: list[list[torch.Tensor]] = []

    def step(self: Step, batches: list[Batch], lr: float) -> Any:
        with monkeypatch.context() as patch:
            if len(kept) == 4 and where == "loss":
                patch.setattr(MAE, "forward_loss", lambda model, *args: real_loss(model, *args) * value)
            if len(kept) == 4 and where == "gradient":
                self.params[4].register_hook(lambda gradient: gradient * value)  # type: ignore[no-untyped-call]
            result = real_step(self, batches, lr)
        # a hook would stay for the steps to come
        self.params[4]._backward_hooks = None
        moments = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        kept.append([tensor.detach().clone() for tensor in (*self.params, *moments)])
        return result

    monkeypatch.setattr(Step, "__call__", step)
    pretrain(config_for(trees, tmp_path, optim={"epochs": 2, "name": name}), console=quiet())
    assert [r["step"] for r in records(tmp_path / "r") if r["skipped"]] == [5]
    assert all(map(torch.equal, kept[3], kept[4]))
    assert not any(map(torch.equal, kept[4], kept[5])), "no tensor stands still in a step that counts"


def test_a_finite_spike_is_not_skipped(trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = MAE.forward_loss, 0

    def spike(self: MAE, *args: Any) -> Any:
        nonlocal calls
        # the memory of a step is predicted before it, with tensors that have no numbers
        calls += not isinstance(args[0], FakeTensor)
        return real(self, *args) * (1e4 if calls == 5 else 1.0)

    monkeypatch.setattr(MAE, "forward_loss", spike)
    pretrain(config_for(trees, tmp_path, optim={"epochs": 3}), console=quiet())
    found = records(tmp_path / "r")
    assert found[4]["loss"] > 1e3 * found[3]["loss"]
    assert found[-1]["skipped_total"] == found[-1]["rollbacks"] == 0
    assert found[-1]["loss"] < found[0]["loss"]


def losses(runs: Path) -> list[tuple[int, float | None]]:
    return [(r["step"], r["loss"]) for r in records(runs / "r")]


@pytest.fixture(scope="module")
def rolled(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data of steps 12 to 15 is bad; nobody disturbs it."""
    runs = tmp_path_factory.mktemp("rolled")
    assert finish(launch(bad_data, rolling(tiny_split.folder, runs), 12, 15, None)) == 0
    return runs


def test_a_row_of_bad_data_is_rolled_back_and_passed_over(trees: Path, tmp_path: Path, rolled: Path) -> None:
    """The row is seen at the line of step 15, when the last good checkpoint is that of step 10.

    The expected rest of the run is that of one that begins at step 15 with the weights of step 10.
    """
    folder = rolled / "r"
    said = [line for line in (folder / "train.log").read_text().splitlines() if "rolled back" in line]
    assert len(said) == 1
    assert "step 15: 4 steps or more in a row" in said[0] and f"roll-back 1 of {MAX_ROLLBACKS}" in said[0]
    assert "step-00000010" in said[0] and "samples 80 to 119 of the stream are passed over" in said[0]
    # of step 12 the line has two others, and of all of 13 to 15 no loss
    lines = {r["step"]: r for r in records(folder)}
    assert [step for step, r in lines.items() if r["loss"] is None] == [15]
    assert (lines[12]["skipped"], lines[15]["skipped"]) == (1, 3) and lines[12]["loss"] > 0.1
    (line,) = [line for line in (folder / "train.log").read_text().splitlines() if "loss nan" in line]
    assert "  step 15/" in line and "  skipped 3  " in line
    assert series(list(lines.values()), "loss")[0].tolist() == [step for step in lines if step != 15]
    last = records(folder)[-1]
    assert last["step"] == last["steps"] and status(folder)["status"] == "done"
    assert (last["skipped_total"], last["rollbacks"], last["position"]) == (4, 1, 8 * last["steps"])

    grafted = rolling(trees, tmp_path, run={"keep": 100})
    run(grafted)
    ckpt = tmp_path / "r" / "ckpt"
    snapshot = snapshot_of(ckpt / "step-00000010", step=15)
    shutil.rmtree(ckpt)
    checkpoint.write(ckpt, snapshot, keep=100)
    run(grafted)
    assert outcome(tmp_path / "r")[0] == outcome(folder)[0]
    assert losses(tmp_path)[5:] == losses(rolled)[5:]


def snapshot_of(path: Path, step: int) -> checkpoint.Snapshot:
    """A checkpoint as if it were of another step, at which a line was logged."""
    empty: dict[str, Any] = {"window_steps": 0, "window_loss": 0.0, "window_skipped": 0, "window_replaced": 0}
    state = dataclasses.replace(checkpoint.read_state(path), step=step, position=8 * step, **empty)
    weights, moments = (load_file(path / name) for name in checkpoint.FILES[:2])
    return checkpoint.Snapshot(state=state, weights=weights, moments=moments)


@pytest.mark.parametrize(
    ("number", "at"),
    [(signal.SIGKILL, at) for at in (13, 15, 17)] + [(signal.SIGTERM, at) for at in (11, 13)],
    ids=lambda n: getattr(n, "name", f"before step {n}"),
)
def test_killed_or_stopped_around_the_bad_row_it_rolls_back_at_the_same_step(
    trees: Path, tmp_path: Path, rolled: Path, number: signal.Signals, at: int
) -> None:
    config = rolling(trees, tmp_path, run={"save_in_background": False})
    expected = -number if number == signal.SIGKILL else 0
    assert finish(launch(bad_data, config, 12, 15, (at, number))) == expected
    if number == signal.SIGTERM:
        # step 12 is bad: what step 13 leaves is not saved
        before = " from step 10, before steps that were not finite" if at == 13 else ""
        said = (tmp_path / "r" / "train.log").read_text()
        assert f"stopped by SIGTERM at step {at}; the same command goes on{before}\n" in said
    assert finish(launch(bad_data, config, 12, 15, None)) == 0
    assert outcome(tmp_path / "r")[0] == outcome(rolled / "r")[0]
    ours, theirs = dict(losses(tmp_path)), dict(losses(rolled))
    assert all(ours[step] == loss for step, loss in theirs.items() if step > at + 3)
    assert records(tmp_path / "r")[-1]["rollbacks"] == 1


@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "sharded"])
def test_two_ranks_roll_back_together(trees: Path, tmp_path: Path, rolled: Path, shard: bool) -> None:
    config = rolling(trees, tmp_path, step={"shard": shard})
    processes = launch_ranks(bad_data, 2, config, 12, 15, None)
    assert [finish(process) for process in processes] == [0, 0]
    ours, theirs = losses(tmp_path), losses(rolled)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], abs=1e-5)
    assert records(tmp_path / "r")[-1]["rollbacks"] == 1


def test_before_the_first_checkpoint_it_rolls_back_to_the_start(trees: Path, tmp_path: Path) -> None:
    config = rolling(trees, tmp_path, run={"save_every": 100})
    assert finish(launch(bad_data, config, 3, 6, None)) == 0
    assert "rolled back to the weights at the start" in (tmp_path / "r" / "train.log").read_text()
    fresh = rolling(trees, tmp_path / "fresh", run={"save_every": 100})
    start = checkpoint.State(step=6, position=48, fingerprint="", config={}, versions={})
    model = MAE(fresh)
    moments = {
        f"{name}/{key}": torch.zeros(() if key == "step" else p.shape)
        for name, p in model.named_parameters()
        if p.requires_grad
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    fingerprint = checkpoint.read_state(checkpoint.complete(tmp_path / "r" / "ckpt")[0]).fingerprint
    snapshot = checkpoint.Snapshot(
        state=dataclasses.replace(start, fingerprint=fingerprint), weights=model.state_dict(), moments=moments
    )
    checkpoint.write(tmp_path / "fresh" / "r" / "ckpt", snapshot, keep=2)
    run(fresh)
    assert outcome(tmp_path / "r")[0] == outcome(tmp_path / "fresh" / "r")[0]


def test_a_weight_that_goes_bad_in_memory_is_repaired(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is bad from then on, whatever the data; only older weights help, and none such is saved."""
    real, calls = Step.__call__, 0

    def step(self: Step, batches: list[Batch], lr: float) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            self.params[2].data[0] = float("inf")
        return real(self, batches, lr)

    monkeypatch.setattr(Step, "__call__", step)
    pretrain(rolling(trees, tmp_path, run={"keep": 100}), console=quiet())
    last = records(tmp_path / "r")[-1]
    assert last["rollbacks"] == 1 and last["skipped_in_a_row"] == 0 and last["loss"] is not None
    for path in checkpoint.complete(tmp_path / "r" / "ckpt"):
        for name in checkpoint.FILES[:2]:
            assert all(bool(t.isfinite().all()) for t in load_file(path / name).values()), path


def test_the_fourth_roll_back_is_an_error(trees: Path, tmp_path: Path) -> None:
    """Every step from the sixth on is bad: back at 9, 15, 21, and no more at 27, also when tried again."""
    config = rolling(trees, tmp_path)
    for _ in range(2):
        assert finish(launch(bad_data, config, 6, 99, None)) == 1
        said = (tmp_path / "said-0").read_text()
        assert "not finite in 4 steps or more in a row, up to step 27, after 3 roll-backs, the most" in said
        assert "--optim.base_lr" in said and "\n" not in said
        assert status(tmp_path / "r")["status"] == "failed"
        found, _ = checkpoint.newest(tmp_path / "r" / "ckpt")
        assert found is not None
        assert all(bool(t.isfinite().all()) for t in load_file(found / checkpoint.FILES[0]).values())
        (tmp_path / "said-0").unlink()
    lines = (tmp_path / "r" / "train.log").read_text().splitlines()
    steps = [line.split("step ")[1].split(":")[0] for line in lines if "rolled back to" in line]
    assert steps[:3] == ["9", "15", "21"]
