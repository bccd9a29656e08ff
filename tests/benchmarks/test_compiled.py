"""The short form of benchmarks/learning/compiled.py: compiled and eager steps learn the same.

Planted, each seen to fail the test named: in the compiled form alone the gradient of one bias lost (2e-5
apart) or the loss rounded to bfloat16 (8e-4), masks of another seed in every run
(`test_compiled_steps_learn_what_eager_ones_do`); gaps between other seeds' curves, or a run that differs
called equal (`test_the_table_says_how_far_runs_are_apart`); a run that is there run again
(`test_what_has_results_is_not_run_again`).  A GELU by tanh makes 3e-6, and is not found.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from turbomim.benchmarks.learning import compiled
from turbomim.benchmarks.learning.compiled import AGAIN, COMPILED, EAGER, curve, digest, gaps, train
from turbomim.pipeline.tars.split import Split
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config

STEPS = 120
# between means of ten losses of about 1; measured: 2e-7
BOUND = 1e-5


def tiny(split: Split) -> Config:
    config = compiled.small_mae(split.folder, STEPS, seed=0)
    return replace(config, model=replace(config.model, patch=8, width=32, depth=1, decoder_width=16))


def test_compiled_steps_learn_what_eager_ones_do(tiny_split: Split) -> None:
    """And eager ones, taken twice, to the last bit."""
    eager, model = train(tiny(tiny_split), tiny_split, STEPS, compiled=False)
    again, model_again = train(tiny(tiny_split), tiny_split, STEPS, compiled=False)
    assert eager == again and digest(eager, model) == digest(again, model_again)
    faster, _ = train(tiny(tiny_split), tiny_split, STEPS, compiled=True)
    assert eager[-1] < 0.9 * eager[0]
    assert max(gaps(curve(faster, 12), curve(eager, 12))) < BOUND


def test_a_digest_is_of_losses_and_weights(tiny_split: Split) -> None:
    model = MAE(tiny(tiny_split))
    before = digest([1.0, 2.0], model)
    assert digest([1.0, 2.0 + 1e-15], model) != before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert digest([1.0, 2.0], model) != before


def line(name: str, seed: int, losses: float, digest: str) -> dict[str, Any]:
    return {"name": name, "seed": seed, "steps": 5000, "losses": [losses] * 100, "digest": digest}


def test_the_table_says_how_far_runs_are_apart(tmp_path: Path) -> None:
    """Seeds are 0.1, 0.3 and 0.2 apart, compiled from eager 0.01, 0.03 and 0.05: means 0.2 and 0.03."""
    lines = [
        line(
            name,
            seed,
            loss,
            f"{name} {seed}" if name == COMPILED or (name, seed) == (AGAIN, 2) else f"{seed}",
        )
        for seed, (eager, apart) in enumerate(((1.0, 0.01), (1.1, -0.03), (1.3, 0.05)))
        for name, loss in ((COMPILED, eager + apart), (EAGER, eager), (AGAIN, eager))
    ]
    text = compiled.table(lines, [0, 1, 2])
    assert "| 1 to 1,000 | 1.1333 | 0.03 | 0.2 | 0.15 |" in text
    assert "| 4,001 to 5,000 | 1.1333 | 0.03 | 0.2 | 0.15 |" in text
    assert (
        "seed 1: two eager runs are equal bit for bit; mean loss of the last fifth: 1.070000 compiled" in text
    )
    assert "seed 2: two eager runs are NOT EQUAL" in text
    assert "| 1 to 1,000 | 1.0000 | 0.01 | nan | nan |" in compiled.table(lines[:3], [0])
    compiled.plot(lines, [0, 1, 2], tmp_path / "compiled.png")
    assert Image.open(tmp_path / "compiled.png").width > 1000


def test_what_has_results_is_not_run_again(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, bool]] = []

    def train(config: Config, split: Split, steps: int, *, compiled: bool) -> tuple[list[float], MAE]:
        if len(ran) == 2:
            raise ZeroDivisionError
        ran.append((config.run.seed, compiled))
        return [float(step) for step in range(steps)], MAE(config)

    monkeypatch.setattr(compiled, "train", train)
    options = argparse.Namespace(data=tiny_split.folder, steps=200, seeds=[0, 1], out=tmp_path / "out")
    with pytest.raises(ZeroDivisionError):
        compiled.run_all(options)
    ran.append((9, False))
    lines = compiled.run_all(options)
    assert [run for run in ran if run[0] != 9] == [
        (0, True),
        (0, False),
        (0, False),
        (1, True),
        *[(1, False)] * 2,
    ]
    assert [(line["name"], line["seed"]) for line in lines] == [
        (name, seed) for seed in (0, 1) for name in (COMPILED, EAGER, AGAIN)
    ]
    assert lines[0]["losses"][:2] == [0.5, 2.5]
