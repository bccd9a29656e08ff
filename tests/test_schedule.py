"""Learning-rate pins of the published schedules and the length of a run.

Planted, each seen to fail the test named: a batch of 256 for every base rate, or a cosine that starts after
warm-up with the slips (`test_simmims_cosine`); the rate of this step with the slips
(`test_the_published_loop_sets_the_rate_after_the_step`); a drop one step late (`test_simmims_drop`).
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from turbomim.pipeline.errors import UserError
from turbomim.train.config import OptimConfig
from turbomim.train.plan import make_plan
from turbomim.train.recipes import recipe
from turbomim.train.schedule import lr_at, lr_of_step, total_steps

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


def test_pixmim_warmup_starts_above_zero() -> None:
    pixmim = OptimConfig(epochs=300, warmup_epochs=40, warmup_start=1e-4)
    assert lr_at(0, pixmim) == pytest.approx(2.4e-7)
    assert lr_at(40, pixmim) == pytest.approx(2.4e-3)
    assert lr_at(20, pixmim) == pytest.approx(2.4e-3 * (1e-4 + 0.5 * (1 - 1e-4)))


def test_rate_never_jumps_and_ends_at_min_lr() -> None:
    optim = OptimConfig(epochs=10, warmup_epochs=2, min_lr=1e-5)
    rates = [lr_at(e / 100, optim) for e in range(1001)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < optim.lr / 150
    assert rates[-1] == pytest.approx(1e-5)
    assert lr_at(10.2, optim) == pytest.approx(1e-5)
    assert lr_at(0.5, OptimConfig(epochs=1, warmup_epochs=0)) == pytest.approx(OptimConfig().lr / 2)


def test_length_of_a_run() -> None:
    assert total_steps(300, 1_281_167, 4096) == 93_836
    assert total_steps(1, 64, 64) == 1
    assert total_steps(1.5, 10, 4) == 4


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
