"""Fine-tuning on a GPU: a micro-batch is made and trained on without the host waiting for anything.

Planted on the CPU, in tests/train/finetune/test_erase.py, where a GPU is played.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.gpu.waits import nobody_waits

from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.augment_ahead import Augmented
from turbomim.train.finetune.layer_decay import layered_optimizer
from turbomim.train.loop.step import Step
from turbomim.train.models.classifier import Classifier
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import DataConfig, StepConfig
from turbomim.train.settings.finetune import FinetuneConfig, FinetuneSettings
from turbomim.train.settings.model import ModelConfig
from turbomim.train.world.distributed import World

SEED = 7
# every mix has its own code
MIXES = {"mixup": (0.8, 0.0), "cutmix": (0.0, 1.0), "either": (0.8, 1.0), "none": (0.0, 0.0)}


def settings(mix: str) -> FinetuneSettings:
    mixup, cutmix = MIXES[mix]
    return FinetuneSettings(classes=10, erase=0.5, mixup=mixup, cutmix=cutmix)


def batch_on(device: torch.device, size: int, position: int) -> Augmented:
    """The same on every device."""
    random = np.random.default_rng(position)
    images = random.integers(0, 256, (16, size, size, 3), dtype=np.uint8)
    numbers = torch.from_numpy(random.integers(0, 10, (3, 16))).to(device)
    return Augmented(
        images_BHWC=torch.from_numpy(images).to(device),
        labels_B=numbers[0],
        ids_B=numbers[1],
        epochs_B=numbers[2],
        position=position,
        words_B=random.integers(0, 2**32, 16, dtype=np.uint32),
    )


@pytest.mark.parametrize("mix", MIXES)
def test_a_device_makes_what_the_host_makes(device: torch.device, mix: str) -> None:
    """Noise too: its words are integers, and so are the rectangles."""
    for position in (0, 16):
        made = augmented_batch(batch_on(device, 64, position), settings(mix), SEED)
        expected = augmented_batch(batch_on(torch.device("cpu"), 64, position), settings(mix), SEED)
        for mine, theirs in zip(made, expected, strict=True):
            assert mine.device.type == device.type
            torch.testing.assert_close(mine.cpu(), theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("mix", MIXES)
def test_a_micro_batch_makes_nobody_wait(device: torch.device, mix: str) -> None:
    batches = [batch_on(device, 64, 16 * number) for number in range(4)]
    # what is loaded and allocated with the first one
    augmented_batch(batches[0], settings(mix), SEED)
    state = torch.cuda.get_rng_state() if device.type == "cuda" else torch.get_rng_state()
    with nobody_waits(device):
        made = [augmented_batch(batch, settings(mix), SEED) for batch in batches]
    after = torch.cuda.get_rng_state() if device.type == "cuda" else torch.get_rng_state()
    assert torch.equal(state, after), "nobody else's numbers change"
    assert all(images.isfinite().all() and targets.isfinite().all() for images, targets in made)


@pytest.mark.parametrize("micro_steps", [1, 2])
@pytest.mark.parametrize("drop_path", [0.0, 0.2])
def test_a_step_makes_nobody_wait(device: torch.device, micro_steps: int, drop_path: float) -> None:
    config = FinetuneConfig(
        data=DataConfig(size=64),
        model=ModelConfig(
            patch=8, width=32, depth=2, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2
        ),
        step=StepConfig(compile=False),
        finetune=FinetuneSettings(classes=10, erase=0.5, drop_path=drop_path),
    )
    model = Classifier(make_model(config), config).to(device)
    world = World(device=device)

    def inputs(batch: object) -> tuple[torch.Tensor, ...]:
        assert isinstance(batch, Augmented)
        images, targets = augmented_batch(batch, config.finetune, SEED)
        return images, targets, batch.epochs_B, batch.ids_B

    optimizer = layered_optimizer(model, config)
    step = Step(model, optimizer, config.step, world, micro_steps, 1.0, inputs)
    batches = [batch_on(device, 64, 16 * number) for number in range(4 * micro_steps)]
    # makes the optimizer's state
    step(batches[:micro_steps], 1e-3)
    losses = []
    with nobody_waits(device):
        for first in range(0, len(batches), micro_steps):
            losses.append(step(batches[first : first + micro_steps], 1e-3))
    for loss, norm, skipped in losses:
        assert float(loss) > 0 and float(norm) > 0 and float(skipped) == 0
