"""Runs on a device, from a raw store, which needs no DALI: resumed as if never stopped.

Which test fails for which mistake (each was made once, on purpose):
a checkpoint without the moments, a resumed run that begins the stream anew: test_a_resumed_run_goes_on.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from turbomim.benchmarks.write_split import write_raw_split
from turbomim.train.folder.log import read_metrics
from turbomim.train.loop import run as run_module
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, DataConfig, RunConfig, StepConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.world.signals import StopFlag

STEPS = 12


def config_of(folder: Path, data: Path, name: str, device: torch.device) -> Config:
    """Twelve steps of a small PixMIM in micro-batches of half a step."""
    return Config(
        data=DataConfig(path=str(data), size=32, threads=1, readers=1),
        model=ModelConfig(
            patch=8, width=64, depth=2, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2,
            target="gaussian", radius=6.0,
        ),
        optim=OptimConfig(epochs=STEPS / 3, warmup_epochs=1, base_lr=0.05, global_batch=16, micro_batch=8),
        step=StepConfig(device="cuda" if device.type == "cuda" else "cpu", compile=False),
        run=RunConfig(folder=str(folder), name=name, log_every=1, save_every=5),
    )  # fmt: skip


def losses_of(config: Config) -> list[float]:
    """Of every step that is logged."""
    return [
        record["loss"] for record in read_metrics(Path(config.run.folder, config.run.name, "metrics.jsonl"))
    ]


def test_a_resumed_run_goes_on(tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after seven steps, and ended as if never stopped, but for the order of a GPU's sums."""
    data = tmp_path / "raw"
    write_raw_split(data, images=48, side=32)
    quiet = Console(file=io.StringIO())
    whole = config_of(tmp_path, data, "whole", device)
    assert pretrain(whole, console=quiet).status == "done"
    stopped = dataclasses.replace(whole, run=dataclasses.replace(whole.run, name="stopped"))
    taken = 0
    step_of = run_module.Run._take_step

    def counted(self: run_module.Run, *args: object) -> object:
        nonlocal taken
        taken += 1
        if taken == 7:
            # as the handler of SIGTERM does
            flags[0].name = "SIGTERM"
        return step_of(self, *args)  # type: ignore[arg-type]

    flags: list[StopFlag] = []
    loop = run_module.Run._loop

    def noted(self: run_module.Run, loader: object, step: object, profile: object, flag: StopFlag) -> bool:
        flags.append(flag)
        return loop(self, loader, step, profile, flag)  # type: ignore[arg-type]

    monkeypatch.setattr(run_module.Run, "_take_step", counted)
    monkeypatch.setattr(run_module.Run, "_loop", noted)
    assert pretrain(stopped, console=quiet).status == "preempted"
    assert pretrain(stopped, console=quiet).status == "done"
    found, right = losses_of(stopped), losses_of(whole)
    assert len(found) == len(right) == STEPS
    # on a CPU the same bits; a GPU's attention adds in any order
    torch.testing.assert_close(found, right, rtol=0 if device.type == "cpu" else 1e-3, atol=0)
    assert right[-1] < right[0]
