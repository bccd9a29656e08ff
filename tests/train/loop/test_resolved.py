"""What settles a run: who decides where several could, and what stays as it was set.

Planted bugs and the test that fails on each: the tuned step before the preset
(`test_what_is_set_wins_then_the_preset_then_what_was_measured`); all threads of the machine for each of its
ranks (`test_the_rest_stays`).
"""

from __future__ import annotations

import dataclasses

import pytest

from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.system.errors import UserError
from turbomim.train.loop.resolved import Resolved, resolve
from turbomim.train.machine.measurements import Tuned
from turbomim.train.machine.tuned_step import StepSettings
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config

MEASURED = Tuned(settings=StepSettings(micro_batch=64, recompute=True), img_per_s=1.0, date="2026-01-02")
LOADER = Tuned(settings=LoaderSpeed(threads=8, readers=3), img_per_s=1.0, date="2026-01-02")
IMAGES = 1_281_167


def mae(micro_batch: int = 0) -> Config:
    """MAE's ViT-B/16: 4,096 images a step."""
    config = recipe("mae-vit-b16-800e")
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, micro_batch=micro_batch))


@pytest.mark.parametrize(
    ("micro_batch", "preset", "measured", "expected", "recompute"),
    [
        (0, None, None, 512, False),
        (0, None, MEASURED, 64, True),
        (0, "a100-80g", MEASURED, 512, False),
        (32, None, MEASURED, 32, False),
    ],
)
def test_what_is_set_wins_then_the_preset_then_what_was_measured(
    micro_batch: int, preset: str | None, measured: Tuned[StepSettings] | None, expected: int, recompute: bool
) -> None:
    run = resolve(mae(micro_batch), IMAGES, ranks=8, preset=preset, tuned_step=measured)
    assert (run.plan.micro_batch, run.config.step.recompute) == (expected, recompute)
    assert run.tuned_step == (measured if recompute else None), "what is said of the step"


def test_the_rest_stays() -> None:
    before = mae()
    run: Resolved[Config] = resolve(
        before, IMAGES, ranks=8, local_ranks=4, tuned_step=MEASURED, tuned_loader=LOADER
    )
    assert run.config.optim.lr == before.optim.lr and run.plan.global_batch == 4096
    assert run.plan.micro_steps * run.plan.micro_batch * 8 == 4096
    assert (run.loader.threads, run.loader.readers) == (2, 3), "ranks share the cores"
    optim = dataclasses.replace(run.config.optim, micro_batch=0)
    step = dataclasses.replace(run.config.step, recompute=False)
    assert dataclasses.replace(run.config, optim=optim, step=step) == before


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="does not divide over 3 ranks"):
        resolve(mae(), IMAGES, ranks=3)
    with pytest.raises(UserError, match=r"--preset h100 chooses optim\.micro_batch, which is set to 32"):
        resolve(mae(32), IMAGES, ranks=8, preset="h100")
