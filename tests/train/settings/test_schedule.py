"""Learning-rate pins of the published schedules.

Planted, each seen to fail the test named: a batch of 256 for every base rate, or a cosine that starts after
warm-up with the slips (`test_simmims_cosine`); the rate of this step with the slips
(`test_the_published_loop_sets_the_rate_after_the_step`); a drop one step late (`test_simmims_drop`); a
warm-up that ends one step later, MAE's, and a cosine that ends one step earlier
(`test_pixmims_and_mffs_rates_are_mmengines`); a decay one step late, and a straight one
(`test_wsd_by_hand`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from turbomim.pipeline.system.errors import UserError
from turbomim.train.recipes.command_line import config_of
from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import differences, from_dict, to_dict
from turbomim.train.settings.finetune import published_finetune
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.settings.plan import make_plan
from turbomim.train.settings.schedule import lr_at, lr_of_step, stable_steps, with_steps

MAE = OptimConfig(epochs=300, warmup_epochs=40)


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 0.0),
        (1, 6e-5),
        (10, 6e-4),
        (39, 2.34e-3),
        (40, 2.4e-3),
        (100, 2.09821e-3),
        (170, 1.2e-3),
        (299, 8.760e-8),
        (300, 0),
    ],
)
def test_published_rates(epoch: float, lr: float) -> None:
    assert MAE.lr == pytest.approx(2.4e-3)
    assert lr_at(epoch, MAE) == pytest.approx(lr, rel=2e-5, abs=1e-12)


def mmengine(lr: float, epochs: int, warm: int, start: float, length: int, end: float) -> Iterator[float]:
    """The rates that mmengine's LinearLR and CosineAnnealingLR set, step by step, by their recursions.

    A recursion multiplies the rate that it finds, so that the cosine begins with the one that warm-up leaves.
    """
    rise, fall = warm * length - 1, (epochs - warm) * length
    rate = lr * start
    yield rate
    for step in range(1, rise + 1):
        rate *= 1 + (1 - start) / (rise * start + (step - 1) * (1 - start))
        yield rate
    yield rate
    for step in range(1, fall):
        share = (1 + math.cos(math.pi * step / fall)) / (1 + math.cos(math.pi * (step - 1) / fall))
        rate = end + (rate - end) * share
        yield rate


@pytest.mark.parametrize(
    ("optim", "length"),
    [
        # 313 steps of an epoch of ImageNet, of 4096
        (recipe("pixmim-vit-b16-300e").optim, 313),
        (recipe("pixmim-ideal-vit-b16-800e").optim, 313),
        (recipe("mff-vit-b16-300e").optim, 313),
        (recipe("pixmim-mff-vit-b16-800e").optim, 313),
        (published_finetune(ModelConfig(target="ideal")).optim, 1252),
    ],
)
def test_pixmims_and_mffs_rates_are_mmengines(optim: OptimConfig, length: int) -> None:
    epochs, warm = int(optim.epochs), int(optim.warmup_epochs)
    theirs = list(mmengine(optim.lr, epochs, warm, optim.warmup_start, length, optim.min_lr))
    ours = [lr_of_step(step, length * optim.global_batch, optim) for step in range(epochs * length)]
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12 * optim.lr)
    assert ours[warm * length - 1] == ours[warm * length] == optim.lr > ours[warm * length + 1]


def test_mmengines_warmup_of_epochs_that_are_no_whole_steps() -> None:
    optim = OptimConfig(
        epochs=2, warmup_epochs=0.5, warmup="mmengine", global_batch=4, base_lr=1.0, lr_batch=4
    )
    # 10 samples: 5 steps, the first 2 of them warm-up
    assert [lr_of_step(step, 10, optim) for step in range(5)] == pytest.approx([0, 1, 1, 0.75, 0.25])
    one = dataclasses.replace(optim, warmup_epochs=0.1, warmup_start=0.5)
    assert [lr_of_step(step, 10, one) for step in (0, 1)] == [0.5, 1]
    none = dataclasses.replace(optim, warmup_epochs=0)
    assert lr_of_step(0, 10, none) == 1 and lr_of_step(99, 10, none) == pytest.approx(0)
    whole = dataclasses.replace(optim, warmup_epochs=2)
    assert [lr_of_step(step, 10, whole) for step in (0, 4, 5)] == pytest.approx([0, 1, 1])
    for more in ({"published_slips": True}, {"schedule": "step", "lr_drop_epochs": 1}):
        with pytest.raises(UserError, match=r"optim\.warmup = mmengine: must be mae"):
            dataclasses.replace(optim, **more)


def test_other_methods_keep_maes_warmup_and_old_runs_theirs() -> None:
    by_mmengine = {name for name in RECIPES if recipe(name).optim.warmup == "mmengine"}
    assert by_mmengine == {name for name in RECIPES if name.startswith(("pixmim-", "mff-"))}
    old = to_dict(recipe("pixmim-vit-b16-300e"))
    del old["optim"]["warmup"]
    kept = from_dict(old, Config(), "config.yaml")
    assert (
        lr_of_step(7, 40960, kept.optim)
        == lr_at(0.7, kept.optim)
        != lr_of_step(7, 40960, recipe("pixmim-vit-b16-300e").optim)
    )
    assert differences(kept, recipe("pixmim-vit-b16-300e")) == ["optim.warmup: mae -> mmengine"]


def test_rate_never_jumps_and_ends_at_min_lr() -> None:
    optim = OptimConfig(epochs=10, warmup_epochs=2, min_lr=1e-5)
    rates = [lr_at(e / 100, optim) for e in range(1001)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < optim.lr / 150
    assert rates[-1] == pytest.approx(1e-5)
    assert lr_at(10.2, optim) == pytest.approx(1e-5)
    assert lr_at(0.5, OptimConfig(epochs=1, warmup_epochs=0)) == pytest.approx(OptimConfig().lr / 2)


@pytest.mark.parametrize(
    ("epoch", "lr", "published"),
    [
        (0, 4e-6, 4e-6),
        (5, 4.02e-4, 4.02e-4),
        (9.99, 7.992e-4, 7.992e-4),
        # warm-up ends, and the published rate drops
        (10, 8e-4, 7.814e-4),
        (55, 4.2e-4, 3.6055e-4),
        (100, 4e-5, 4e-5),
    ],
)
def test_simmims_cosine(epoch: float, lr: float, published: float) -> None:
    optim = recipe("simmim-swin-b-100e").optim
    assert optim.lr == pytest.approx(8e-4)
    assert lr_at(epoch, optim) == pytest.approx(lr, rel=1e-4)
    slips = dataclasses.replace(optim, published_slips=True)
    assert lr_at(epoch, slips) == pytest.approx(published, rel=1e-4)


@pytest.mark.parametrize("slips", [False, True])
def test_simmims_drop(slips: bool) -> None:
    optim = dataclasses.replace(recipe("simmim-vit-b16-800e").optim, published_slips=slips)
    for epoch, lr in ((0, 2e-6), (5, 2.01e-4), (10, 4e-4), (699.999, 4e-4), (700, 4e-5), (800, 4e-5)):
        assert lr_at(epoch, optim) == pytest.approx(lr)
    with pytest.raises(UserError, match=r"optim\.lr_drop_epochs = 10"):
        dataclasses.replace(optim, lr_drop_epochs=10)


def test_wsd_by_hand() -> None:
    """10 passes over 40 samples by 8: 5 steps of warm-up, 35 at the full rate, 10 that fall."""
    optim = OptimConfig(
        epochs=10, warmup_epochs=1, schedule="wsd", base_lr=1.0, lr_batch=8, global_batch=8, min_lr=0.1
    )
    rates = [lr_of_step(step, 40, optim) for step in range(50)]
    assert rates[:5] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8]) and rates[5:40] == [1.0] * 35
    falling = [1, 0.715395, 0.597508, 0.507050, 0.430790, 0.363604, 0.302863, 0.247005, 0.195016, 0.146185]
    assert rates[40:] == pytest.approx(falling, abs=1e-6)
    assert lr_of_step(50, 40, optim) == lr_of_step(99, 40, optim) == pytest.approx(0.1)
    assert stable_steps(optim, 40) == 40
    # named, and of passes that are no whole steps
    short = replace(optim, decay_epochs=0.5)
    assert stable_steps(short, 40) == 48 and lr_of_step(47, 40, short) == 1.0 > lr_of_step(49, 40, short)
    whole = replace(optim, decay_epochs=9.0)
    assert stable_steps(whole, 40) == 5 and lr_of_step(6, 40, whole) == pytest.approx(1 - 0.9 / math.sqrt(45))
    # no room for a fifth behind warm-up
    assert replace(optim, warmup_epochs=9).decay == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"optim.published_slips": True},
            r"optim\.published_slips = true: must be false with optim\.schedule wsd",
        ),
        (
            {"optim.warmup": "mmengine"},
            r"optim\.warmup = mmengine: must be mae, with optim\.schedule step or wsd",
        ),
        (
            {"optim.decay_epochs": 761},
            r"optim\.decay_epochs = 761\.0: must be 0 \(a fifth of the run\) to 760, the",
        ),
        ({"optim.decay_epochs": -1}, r"optim\.decay_epochs = -1\.0: must be"),
    ],
)
def test_what_wsd_does_not_go_with_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        config_of("mae-vit-b16-800e", {"optim.schedule": "wsd", **given})


@pytest.mark.parametrize(
    ("given", "decay"),
    [
        # nothing named: a fifth of any length
        ({"optim.epochs": 80}, 16),
        ({"optim.epochs": 80, "optim.decay_epochs": 30}, 30),
        ({"optim.steps": 100, "optim.decay_epochs": 3}, 3),
        ({"optim.steps": 100, "optim.decay_epochs": 11}, None),
    ],
)
def test_the_decay_is_a_share_or_what_is_named(given: dict[str, object], decay: float | None) -> None:
    """100 steps are 10 passes."""
    config = config_of("mae-vit-b16-800e", {"optim.schedule": "wsd", "optim.warmup_epochs": 0, **given})
    if decay is None:
        with pytest.raises(UserError, match=r"optim\.decay_epochs = 11\.0: must be 0 .* to 10, the epochs"):
            with_steps(config, 40960)
    else:
        assert with_steps(config, 40960).optim.decay == pytest.approx(decay)


def test_the_published_loop_sets_the_rate_after_the_step() -> None:
    optim = recipe("simmim-swin-b-100e").optim
    slips = dataclasses.replace(optim, published_slips=True)
    # 4 steps of an epoch
    samples = 4 * 2048
    assert [lr_of_step(s, samples, optim) for s in range(40)] == [lr_at(s / 4, optim) for s in range(40)]
    assert lr_of_step(0, samples, slips) == lr_of_step(1, samples, slips) == pytest.approx(4e-6)
    late = [lr_of_step(s, samples, slips) for s in range(1, 400)]
    assert late == [lr_at(s / 4, slips) for s in range(399)]


def test_the_rate_is_written_out_with_its_batch() -> None:
    config = recipe("simmim-swin-b-100e")
    text = make_plan(config, 1_281_167, 16).equation(config)
    assert (
        "lr 0.0008 = 0.0002 x 2048/512" in text and "62,557 steps = 100 epochs of 1,281,167 samples" in text
    )


@pytest.mark.parametrize(("target", "limit"), [("gaussian", 158.3), ("ideal", 157.6)])
def test_a_low_pass_that_filters_nothing_is_refused(target: str, limit: float) -> None:
    given = {"model.target": target, "model.radius": limit}
    assert config_of("mae-vit-b16-800e", given).model.radius == limit
    with pytest.raises(UserError, match=r"model\.radius = 158\.4: must be below 15[78]\.\d cycles"):
        config_of("mae-vit-b16-800e", {**given, "model.radius": 158.4})
    assert config_of("mae-vit-b16-800e", {"model.radius": 500}).model.target == "raw"


def test_a_rate_that_would_rise_to_its_end_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"optim\.min_lr = 0\.1: must be 0 to the rate after warm-up.*give --optim\.min_lr, or a larger",
    ):
        config_of("mae-vit-b16-800e", {"optim.min_lr": 0.1})
