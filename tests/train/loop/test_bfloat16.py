"""A step in bfloat16 on a CPU: its losses and gradients are float32's within rounding, for every family.

Planted bugs that fail it: attention's scale left out of one gradient, its output or the targets a tenth off
(test_losses_and_gradients_follow_float32_s).
"""

from __future__ import annotations

import pytest
import torch
from tests.families import FAMILIES, smaller
from torch import Tensor, nn

from turbomim.pipeline.batch import Batch
from turbomim.train.loop.step import Step
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import Precision, StepConfig
from turbomim.train.world.distributed import World

STEPS = 8


def trained(name: str, precision: Precision) -> tuple[list[float], Tensor, nn.Module, torch.optim.Optimizer]:
    """Losses of some steps on one batch of smooth images, the first step's gradient, model and optimizer."""
    config = smaller(name)
    size = config.data.size
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 6, 6, generator=g) * 255
    images_BCHW = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    images_BHWC = images_BCHW.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous()
    ids_B = torch.arange(8)
    zeros_B = torch.zeros_like(ids_B)
    batch = Batch(images_BHWC=images_BHWC, labels_B=zeros_B, ids_B=ids_B, epochs_B=zeros_B, position=0)
    model = make_model(config)
    optimizer = make_optimizer(model, config.optim)
    settings = StepConfig(device="cpu", compile=False, precision=precision)
    step = Step(model, optimizer, settings, World(device=torch.device("cpu")), micro_steps=1)
    losses, gradient_P = [], torch.empty(0)
    for number in range(STEPS):
        loss, _, skipped = step([batch], lr=1e-3)
        assert loss.dtype == torch.float32 and not skipped
        losses.append(float(loss))
        if not number:
            grads = [param.grad for param in model.parameters() if param.grad is not None]
            gradient_P = torch.cat([grad.flatten() for grad in grads]).clone()
    return losses, gradient_P, model, optimizer


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_and_gradients_follow_float32_s(name: str) -> None:
    exact, gradient_P, _, _ = trained(name, "float32")
    rounded, other_P, _, _ = trained(name, "bfloat16")
    assert exact != rounded
    # a product's result is rounded to 2^-9 of itself, and a gradient has passed through some twenty
    assert rounded[0] == pytest.approx(exact[0], rel=2**-7)
    assert rounded == pytest.approx(exact, rel=0.03)
    assert float((other_P - gradient_P).norm() / gradient_P.norm()) < 0.08


def test_weights_and_moments_stay_float32() -> None:
    _, _, model, optimizer = trained("demo", "bfloat16")
    moments = [value for state in optimizer.state.values() for value in state.values()]
    assert {tensor.dtype for tensor in [*model.state_dict().values(), *moments]} == {torch.float32}
