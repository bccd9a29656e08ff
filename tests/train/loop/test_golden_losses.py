"""The losses of every family of recipes, kept in golden/*.txt: a change of the mathematics shows.

The photographs are drawn from integers and stored without loss, the recipe's model and batch are made small,
the rest of it stays.  `python -m tests.train.loop.test_golden_losses` writes the files anew; a commit that
changes them says why.  Planted bugs that fail it: another beta2, another start of the warm-up, targets not
normalised; for one method each: the last level projected in place of the first (mff), a mask unit of 1
(lsmae), the depthwise convolution left out (convmae), the same quarter four times (fastconvmae), gradients
not clipped (simmim), windows of 2 (simmim-swin), targets not normalised by windows (simmim-swinv2).
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import ROOT
from tests.families import FAMILIES, smaller
from tests.runs import attempt, config_for, finish, launch, outcome, records, run

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import Config, RunConfig, StepConfig

GOLDEN = Path(__file__).parent / "golden"
STEPS = 20


def draw(folder: Path) -> Path:
    """24 PNGs of coloured squares, 64 to 100 pixels, in shards of 10."""
    random = np.random.default_rng(7)
    for number in range(24):
        height, width = random.integers(16, 26, 2)
        squares = random.integers(0, 256, (height, width, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        path = folder / "photographs" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(squares).save(path)
    make_shards(folder / "photographs", folder / "shards", ShardSettings(shard_size=10))
    return folder / "shards"


def small(name: str, data: Path, runs: Path) -> Config:
    """The recipe with a small model, batch, image and schedule: 20 steps, half of them warm-up."""
    config = smaller(name)
    epochs = STEPS * 8 / 24
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=str(data), threads=1, readers=1),
        optim=dataclasses.replace(
            config.optim,
            epochs=epochs,
            warmup_epochs=epochs / 2,
            # of a schedule of steps
            lr_drop_epochs=0.8 * epochs,
            # so small a model has small gradients
            clip_grad=config.optim.clip_grad / 5,
            base_lr=0.05,
            global_batch=8,
            micro_batch=0,
        ),
        step=StepConfig(device="cpu", compile=False, precision="float32"),
        run=RunConfig(folder=str(runs), name="r", seed=config.run.seed, log_every=1, save_every=1000),
    )


def losses(name: str, data: Path, runs: Path) -> list[float]:
    assert finish(launch(attempt, small(name, data, runs))) == 0
    return [r["loss"] for r in records(runs / "r")]


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_are_those_kept(name: str, tmp_path: Path) -> None:
    """Within 1e-5 of the value: processors and libraries round differently, mathematics differs by more.

    Torch 2.11.0, 2.14.1 and 2.15.0 lie within 1.4e-7.
    """
    kept = [float(line) for line in (GOLDEN / f"{name}.txt").read_text().split()]
    assert len(kept) == STEPS
    assert losses(name, draw(tmp_path), tmp_path) == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_initial_weights_are_the_seeds_alone(name: str, tmp_path: Path) -> None:
    """No weight comes from torch's generators, whose numbers change with its version."""
    config = small(name, tmp_path, tmp_path)
    states = []
    for other in (1, 2):
        torch.manual_seed(other)
        states.append(make_model(config).state_dict())
    assert all(torch.equal(weight, states[1][key]) for key, weight in states[0].items())


def test_every_kept_file_has_its_test() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(FAMILIES)


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from tests.runs import attempt, config_for
from pathlib import Path
attempt(config_for(Path({data!r}), Path({runs!r}), optim={{"epochs": 2}}, run={{"seed": 3}}))
"""


def test_processes_agree_and_seeds_differ(tmp_path: Path) -> None:
    """Fresh interpreters with other hashes of strings give the same bits, another seed others."""
    data = draw(tmp_path)
    results = []
    for hashes in ("0", "12345"):
        runs = tmp_path / f"hashes-{hashes}"
        runs.mkdir()
        program = PROGRAM.format(root=str(ROOT), data=str(data), runs=str(runs))
        environment = {**os.environ, "PYTHONHASHSEED": hashes, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
        results.append(outcome(runs / "r"))
    assert results[0] == results[1]
    run(config_for(data, tmp_path / "seed", optim={"epochs": 2}, run={"seed": 4}))
    assert results[0][1] != outcome(tmp_path / "seed" / "r")[1]


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            values = losses(family, draw(Path(folder)), Path(folder))
        (GOLDEN / f"{family}.txt").write_text("".join(f"{value!r}\n" for value in values))
