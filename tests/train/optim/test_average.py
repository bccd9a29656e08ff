"""The moving average of the weights: its value, and where a run uses it.

Planted, each seen to fail the test named: one decay from the first step on, a skipped step that counts
(`test_the_average_is_the_textbooks`); an average that a resume begins anew (`test_stopped_and_resumed`), or
that a roll-back leaves (`test_a_roll_back_takes_the_average_back`); weights that are not put back after a
look at the average (`test_training_is_what_it_is_without`), and gathered ones that stay
(`test_ranks_agree_with_one`).
"""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tests.runs import attempt, config_for, finish, launch, losses, outcome, quiet, records, run
from torch import nn

from turbomim.pipeline.system.errors import UserError
from turbomim.train.encoder.features import load_run
from turbomim.train.folder import checkpoint
from turbomim.train.loop.checkpoints import RunCheckpoints
from turbomim.train.loop.step import Step
from turbomim.train.machine.predicted_memory import count_parameters, predicted_bytes
from turbomim.train.machine.price import checkpoint_bytes
from turbomim.train.models.methods import make_model
from turbomim.train.optim.average import Average
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config
from turbomim.train.settings.optim import OptimConfig


def test_the_average_is_the_textbooks() -> None:
    """Against float64, step by step; the last but one is not taken."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(63, 5)
    model.bias.requires_grad_(False)
    average = Average(model, 0.9)
    expected = model.weight.detach().double()
    for step in range(100):
        skipped = step == 98
        with torch.no_grad():
            model.weight += torch.randn(5, 63, generator=generator) * (not skipped)
        average.update(step, torch.tensor(float(skipped)))
        decay = 1.0 if skipped else min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert set(average.tensors) == {"weight"} and average.tensors["weight"].dtype == torch.float32
    torch.testing.assert_close(average.tensors["weight"].double(), expected, rtol=1e-6, atol=1e-6)
    before = model.weight.detach().clone()
    with average.in_place():
        torch.testing.assert_close(model.weight.detach().double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(model.weight, before)


def test_without_a_decay_nothing_is_kept() -> None:
    model = nn.Linear(3, 3)
    average = Average(model, 0.0)
    average.update(0, torch.tensor(0.0))
    with average.in_place():
        pass
    average.begin()
    assert not average.tensors and not average.trained
    with pytest.raises(UserError, match=r"optim\.ema = 1: must be 0 \(no average\) to below 1"):
        OptimConfig(ema=1)


def with_ema(data: Path, runs: Path, ema: float = 0.9, /, **sections: Any) -> Config:
    optim = {"epochs": 3, "base_lr": 0.02, "ema": ema, **sections.pop("optim", {})}
    return config_for(data, runs, optim=optim, **sections)


def newest(folder: Path) -> Path:
    found, _ = checkpoint.newest(folder / "ckpt")
    assert found is not None
    return found


def test_training_is_what_it_is_without(tiny_split: Any, tmp_path: Path) -> None:
    """Same losses, weights and moments; held-out loss, export and whoever reads the run take the average."""
    data = {"heldout": str(tiny_split.folder)}
    run_settings = {"eval_every": 4, "picture_every": 4}
    for name, ema in (("with", 0.9), ("without", 0.0)):
        config = with_ema(tiny_split.folder, tmp_path / name, ema, data=data, run=run_settings)
        said = Console(file=io.StringIO(), width=300)
        pretrain(config, console=said)
        text = said.file.getvalue()  # type: ignore[attr-defined]
        assert (
            "scored, drawn and exported is the moving average of the weights (optim.ema 0.9)" in text
        ) == bool(ema)
    one, other = (newest(tmp_path / name / "r") for name in ("with", "without"))
    assert losses(tmp_path / "with" / "r") == losses(tmp_path / "without" / "r")
    kept, plain = load_file(one / "optimizer.safetensors"), load_file(other / "optimizer.safetensors")
    trained = {key.removesuffix("/trained"): kept.pop(key) for key in list(kept) if key.endswith("/trained")}
    assert kept.keys() == plain.keys() and all(torch.equal(kept[key], plain[key]) for key in kept)
    weights, averages = load_file(other / "model.safetensors"), load_file(one / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in trained.items())
    assert list(weights) == list(averages)
    assert all(not torch.equal(weights[name], averages[name]) for name in trained)
    fixed = weights.keys() - trained.keys()
    assert fixed and all(torch.equal(weights[name], averages[name]) for name in fixed)
    held = [
        [r["heldout_loss"] for r in records(tmp_path / n / "r") if "heldout_loss" in r]
        for n in ("with", "without")
    ]
    assert len(held[0]) == len(held[1]) == 4 and all(a != b for a, b in zip(*held, strict=True))
    # readers
    _, model, _ = load_run(tmp_path / "with" / "r")
    assert all(torch.equal(tensor, averages[name]) for name, tensor in model.state_dict().items())
    exported = load_file(next((tmp_path / "with" / "r" / "export").glob("**/model.safetensors")))
    assert torch.equal(exported["blocks.0.mlp.fc1.weight"], averages["blocks.0.mlp.fc1.weight"])


def test_a_run_without_writes_what_it_wrote(tiny_split: Any, tmp_path: Path) -> None:
    pretrain(with_ema(tiny_split.folder, tmp_path, 0.0), console=quiet())
    names = load_file(newest(tmp_path / "r") / "optimizer.safetensors")
    assert {name.rsplit("/", 1)[1] for name in names} == {"exp_avg", "exp_avg_sq", "step"}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_stopped_and_resumed(tiny_split: Any, tmp_path: Path, name: str) -> None:
    """Killed in step 8, two steps behind a checkpoint, it ends with the same bits."""
    data, optim = tiny_split.folder, {"name": name}
    config = with_ema(data, tmp_path, optim=optim)
    tmp_path.joinpath("whole").mkdir()
    assert finish(launch(killed_in, config, 8)) == -signal.SIGKILL
    assert checkpoint.read_state(newest(tmp_path / "r")).step == 6
    run(config)
    run(with_ema(data, tmp_path / "whole", optim=optim))
    assert outcome(tmp_path / "r") == outcome(tmp_path / "whole" / "r")


def killed_in(config: Config, step: int) -> None:
    real = Step.__call__

    def call(self: Step, batches: Any, lr: float) -> Any:
        if batches[0].position // 8 + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, batches, lr)

    setattr(Step, "__call__", call)  # noqa: B010
    attempt(dataclasses.replace(config, run=dataclasses.replace(config.run, save_in_background=False)))


@pytest.mark.parametrize("save_every", [3, 100], ids=["a checkpoint", "the start"])
def test_a_roll_back_takes_the_average_back(
    tiny_split: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    """Of a row of skipped steps up to a log line; what is there then is looked at before the next step."""
    seen: dict[int, dict[str, torch.Tensor]] = {}
    real = RunCheckpoints.roll_back
    average: list[Average] = []

    def rolled_back(self: RunCheckpoints, step: int) -> str:
        average.append(self._average)
        line = real(self, step)
        seen[step] = {name: tensor.clone() for name, tensor in self._average.tensors.items()}
        return line

    step = Step.__call__

    def call(self: Step, batches: Any, lr: float) -> Any:
        loss, norm, skipped = step(self, batches, lr)
        return loss, norm, torch.ones_like(skipped) if batches[0].position // 8 + 1 in (6, 7, 8) else skipped

    monkeypatch.setattr(RunCheckpoints, "roll_back", rolled_back)
    monkeypatch.setattr(Step, "__call__", call)
    run_settings = {"log_every": 4, "save_every": save_every, "keep": 9}
    pretrain(
        with_ema(tiny_split.folder, tmp_path, run=run_settings, optim={"max_skipped": 3}), console=quiet()
    )
    assert list(seen) == [8]
    start = make_model(with_ema(tiny_split.folder, tmp_path)).state_dict()
    good = (
        start
        if save_every == 100
        else load_file(tmp_path / "r" / "ckpt" / "step-00000003" / "model.safetensors")
    )
    assert all(torch.equal(tensor, good[name]) for name, tensor in seen[8].items())


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
def test_ranks_agree_with_one(tiny_split: Any, tmp_path: Path, shard: bool) -> None:
    """Two ranks, and one that goes on from their checkpoint; with a look at the average between steps."""
    data = {"heldout": str(tiny_split.folder)}
    sections: Any = {"data": data, "run": {"eval_every": 3, "save_every": 4}}
    (tmp_path / "two").mkdir()
    two = with_ema(tiny_split.folder, tmp_path / "two", step={"shard": shard}, **sections)
    run(two, world=2)
    pretrain(with_ema(tiny_split.folder, tmp_path / "one", **sections), console=quiet())
    one, other = (newest(tmp_path / name / "r") for name in ("one", "two"))
    for file in checkpoint.FILES[:2]:
        a, b = load_file(one / file), load_file(other / file)
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-5)
    held = [
        [r["heldout_loss"] for r in records(tmp_path / n / "r") if "heldout_loss" in r]
        for n in ("one", "two")
    ]
    assert held[0] == pytest.approx(held[1], abs=1e-5) and len(held[0]) == 5
    # the other way round of ranks
    shutil.rmtree(other)
    run(dataclasses.replace(two, step=dataclasses.replace(two.step, shard=False)))
    again = load_file(newest(tmp_path / "two" / "r") / "model.safetensors")
    for name, tensor in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(tensor, again[name], rtol=0, atol=2e-5)


def test_a_new_run_begins_with_the_average(tiny_split: Any, tmp_path: Path) -> None:
    pretrain(with_ema(tiny_split.folder, tmp_path), console=quiet())
    config = with_ema(tiny_split.folder, tmp_path, run={"name": "next", "keep": 9})
    pretrain(config, console=quiet(), begins_from=tmp_path / "r")
    first = load_file(tmp_path / "next" / "ckpt" / "step-00000000" / "model.safetensors")
    last = load_file(newest(tmp_path / "r") / "model.safetensors")
    assert all(torch.equal(first[name], tensor) for name, tensor in last.items())


def test_memory_and_disk_count_it(tiny_split: Any, tmp_path: Path) -> None:
    pretrain(config := with_ema(tiny_split.folder, tmp_path), console=quiet())
    plain = dataclasses.replace(config, optim=dataclasses.replace(config.optim, ema=0.0))
    one, none = (predicted_bytes(each, 8, bfloat16=False, recompute=False) for each in (config, plain))
    assert one.total - none.total == one.moments - none.moments == 4 * count_parameters(config).trained
    files = sum((newest(tmp_path / "r") / name).stat().st_size for name in checkpoint.FILES[:2])
    assert checkpoint_bytes(config) == pytest.approx(files, rel=0.2)


def test_trained_weights_of_another_model_are_refused(tiny_split: Any, tmp_path: Path) -> None:
    """One is missing, or of another shape."""
    pretrain(config := with_ema(tiny_split.folder, tmp_path), console=quiet())
    model = make_model(config)
    average = Average(model, 0.9)
    for wrong in ({}, {"cls_token": torch.zeros(2)}):
        weights = {**average.trained, **wrong}
        if not wrong:
            del weights["cls_token"]
        with pytest.raises(UserError, match="trained weights belong to another model: 'cls_token' does not"):
            average.go_on_with(weights)
