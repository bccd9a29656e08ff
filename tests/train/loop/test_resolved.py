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
from turbomim.train.loop.resolved import resolve
from turbomim.train.machine.measurements import Tuned
from turbomim.train.machine.tuned_loader import rank_speed
from turbomim.train.machine.tuned_step import StepSettings
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import make_plan

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
    config, used = resolve(mae(micro_batch), ranks=8, preset=preset, tuned_step=measured)
    assert (make_plan(config, IMAGES, 8).micro_batch, config.step.recompute) == (expected, recompute)
    assert used == (measured if recompute else None), "what is said of the step"


def test_the_rest_stays() -> None:
    before = mae()
    config, _ = resolve(before, ranks=8, tuned_step=MEASURED)
    plan, loader = make_plan(config, IMAGES, 8), rank_speed(config.data, LOADER, 4)
    assert config.optim.lr == before.optim.lr and plan.global_batch == 4096
    assert plan.micro_steps * plan.micro_batch * 8 == 4096
    assert (loader.threads, loader.readers) == (2, 3), "ranks share the cores"
    optim = dataclasses.replace(config.optim, micro_batch=0)
    step = dataclasses.replace(config.step, recompute=False)
    assert dataclasses.replace(config, optim=optim, step=step) == before


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="does not divide over 3 ranks"):
        make_plan(resolve(mae(), ranks=3)[0], IMAGES, 3)
    with pytest.raises(UserError, match=r"--preset h100 chooses optim\.micro_batch, which is set to 32"):
        resolve(mae(32), ranks=8, preset="h100")
