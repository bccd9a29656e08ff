"""Does the compiled step learn what the eager one learns?  Two thousand steps of a small model, equal seeds.

A run differs from an equal one, and from one whose weights began a rounding apart, by what a GPU's order of
sums makes of it: the compiled run may differ by as much.  Another project saw its compiled loss leave the
eager one after 3,000 steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from turbomim.benchmarks.gpu.stage import Place, Row
from turbomim.pipeline.batch import Batch
from turbomim.train.loop.step import Step
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import Config, DataConfig, StepConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.world.distributed import World

MODEL: Final = ModelConfig(
    patch=8, width=128, depth=4, heads=4, decoder_width=64, decoder_depth=2, decoder_heads=2
)
SIZE: Final = 64
# different batches, gone through again and again; steps that one point of a curve is the mean of
POOL, POINT = 16, 50
LR: Final = 5e-4
# the last bit of a float32, as a share
ROUNDING: Final = 2.0**-23


def rows(place: Place) -> Iterator[Row]:
    """Curves as they come, and at the end how far they are apart."""
    steps, batch = (2000, 128) if place.on_gpu else (20, 4)
    device = torch.device(place.device)
    runs = {
        "eager": (False, 0.0),
        "eager again": (False, 0.0),
        "eager, weights a rounding apart": (False, ROUNDING),
        "compiled": (True, 0.0),
    }
    batches = made_batches(device, batch)
    losses: dict[str, Tensor] = {}
    for name, (compiled, apart) in runs.items():
        losses[name] = losses_of(batches, steps, compiled=compiled, apart=apart)
        points = losses[name].reshape(-1, min(POINT, steps)).mean(1)
        yield {
            "name": f"{steps:,} steps: {name}",
            "steps": steps,
            "curve": [round(p, 6) for p in points.tolist()],
        }
    yield {
        "name": "largest difference from the eager loss",
        "steps": steps,
        **{name: float((losses[name] - losses["eager"]).abs().max()) for name in runs if name != "eager"},
    }


def losses_of(batches: list[Batch], steps: int, *, compiled: bool, apart: float) -> Tensor:
    """The loss of every step, (steps,) float64.  apart: the weights' distance from their usual start."""
    config = Config(data=DataConfig(size=SIZE), model=MODEL, step=StepConfig(compile=compiled))
    device = batches[0].images_BHWC.device
    model = make_model(config).to(device)
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1 + apart)
    world = World(device=device)
    step = Step(model, make_optimizer(model, config.optim), config.step, world, micro_steps=1)
    found = []
    for number in range(steps):
        batch = batches[number % POOL]
        epochs_B = torch.full_like(batch.epochs_B, number // POOL)
        found.append(step([dataclasses.replace(batch, epochs_B=epochs_B)], LR)[0])
    return torch.stack(found).double().cpu()


def made_batches(device: torch.device, size: int) -> list[Batch]:
    """Pictures of colour waves, which can be learned; the same every time."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    batches = []
    for number in range(POOL):
        slopes = torch.rand(size, 1, 1, 2, 3, generator=generator) * 0.4
        phase = torch.rand(size, 1, 1, 3, generator=generator) * 6
        waves = torch.sin(
            y[None, :, :, None] * slopes[..., 0, :] + x[None, :, :, None] * slopes[..., 1, :] + phase
        )
        images_BHWC = (128 + 100 * waves).to(torch.uint8).to(device)
        ids_B = torch.arange(number * size, (number + 1) * size, device=device)
        zeros_B = torch.zeros_like(ids_B)
        batches.append(
            Batch(images_BHWC=images_BHWC, labels_B=zeros_B, ids_B=ids_B, epochs_B=zeros_B, position=0)
        )
    return batches
