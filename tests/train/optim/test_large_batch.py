"""LAMB and LARS against their formulas in float64.

Planted, each seen to fail: LAMB's own clipping, another epsilon or momentum, decay of a bias.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.optim import OptimConfig

RATE = 0.05
SETTINGS: dict[str, Any] = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-2, "momentum": 0.7, "weight_decay": 0.2}


def lamb(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        change = (mean / (1 - 0.8**step)) / ((square / (1 - 0.9**step)).sqrt() + 1e-2)
        if decay:
            change = change + decay * weight
            change = change * weight.norm() / change.norm()
        weight = weight - RATE * change
    return weight


def lars(weight: Tensor, gradients: list[Tensor], decay: float) -> Tensor:
    momentum = torch.zeros_like(weight)
    for gradient in gradients:
        if decay:
            trust = 0.001 * weight.norm() / (gradient.norm() + decay * weight.norm())
            gradient = trust * (gradient + decay * weight)
        momentum = 0.7 * momentum + gradient
        weight = weight - RATE * momentum
    return weight


@pytest.mark.parametrize(("name", "formula"), [("lamb", lamb), ("lars", lars)])
def test_three_steps_are_the_papers(name: str, formula: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 7)
    optimizer = make_optimizer(model, OptimConfig(name=name, **SETTINGS))  # type: ignore[arg-type]
    for group in optimizer.param_groups:
        group["lr"] = RATE
    # norms far above 1
    gradients = {key: [4 * torch.randn_like(p) for _ in range(3)] for key, p in model.named_parameters()}
    expected = {
        key: formula(p.detach().double(), [g.double() for g in gradients[key]], 0.2 if p.ndim > 1 else 0.0)
        for key, p in model.named_parameters()
    }
    for step in range(3):
        for key, p in model.named_parameters():
            p.grad = gradients[key][step].clone()
        optimizer.step()
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.detach().double(), expected[key], atol=1e-6, rtol=1e-5, msg=key)


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_without_decay_nothing_would_be_scaled(name: str) -> None:
    with pytest.raises(UsageError, match=f"weight_decay = 0: must be above 0 with optim.name {name}"):
        OptimConfig(name=name, weight_decay=0)  # type: ignore[arg-type]
