"""Learning-rate pins of the published schedules and the length of a run."""

from __future__ import annotations

import itertools

import pytest

from turbomim.train.config import OptimConfig
from turbomim.train.schedule import lr_at, total_steps

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
