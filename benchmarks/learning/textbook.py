"""A plain eager MAE trained as a tutorial would: the opponent in bench.py.

It gets our loader's batches, our initial weights, our masks' distribution and our schedule, so that only the
step differs.  Shape suffixes: B batch, N patches, H W pixels, C channels.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from turbomim.benchmarks.step.textbook_mae import TextbookMAE, normalised, textbook_adamw
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UserError, to_stderr
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.loop.data import open_loader
from turbomim.train.machine.tuned_loader import default_speed
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config
from turbomim.train.settings.schedule import lr_of_step

# steps before the timed ones, and timed ones, that tell how many fit into the time
WARM_STEPS, TIMED_STEPS = 3, 20
LOG_EVERY = 10


def train_textbook(config: Config, *, seconds: float) -> tuple[MAE, list[list[float]]]:
    """Train for so long; the model as ours, and its losses, [images seen, loss] each.

    The first steps, on weights that are thrown away, count as part of the time.
    """
    if config.model.target != "raw":
        raise UserError(f"model.target = {config.model.target}: the textbook MAE predicts raw pixels only")
    begun = time.perf_counter()
    split = open_split(config.data.path)
    samples, batch = split.manifest.samples, config.optim.global_batch
    for _ in steps(TextbookMAE(config), config, split, WARM_STEPS):
        pass
    warm = time.perf_counter()
    for _ in steps(TextbookMAE(config), config, split, TIMED_STEPS):
        pass
    step_s = (time.perf_counter() - warm) / TIMED_STEPS
    count = max(1, int((seconds - (time.perf_counter() - begun)) / step_s))
    share = config.optim.warmup_epochs / config.optim.epochs
    epochs = count * batch / samples
    config = dataclasses.replace(
        config, optim=dataclasses.replace(config.optim, epochs=epochs, warmup_epochs=share * epochs)
    )
    ours, model = MAE(config), TextbookMAE(config)
    model.load_state_dict(ours.state_dict())
    losses = [
        [number * batch, round(loss.item(), 4)]
        for number, loss in enumerate(steps(model, config, split, count), start=1)
        if number % LOG_EVERY == 0 or number == count
    ]
    ours.load_state_dict(model.state_dict())
    return ours, losses


def steps(model: TextbookMAE, config: Config, split: Split, count: int) -> Iterator[Tensor]:
    """Take so many steps from the stream's start; yield each loss, ()."""
    optim, samples = config.optim, split.manifest.samples
    generator = torch.Generator().manual_seed(config.run.seed)
    # the rate is set for each step
    optimizer = textbook_adamw(model, optim, 0.0)
    with loader_of(config, split) as loader:
        for number in range(count):
            for group in optimizer.param_groups:
                group["lr"] = lr_of_step(number, samples, optim)
            batch = next(loader)
            noise_BN = torch.rand(optim.global_batch, config.patches, generator=generator)
            loss: Tensor = model(normalised(batch.images_BHWC), noise_BN)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield loss.detach()


def loader_of(config: Config, split: Split) -> Loader:
    """Our loader, as the run of the same settings has it."""
    batch = config.optim.global_batch
    return open_loader(
        config,
        split,
        BatchCut(global_batch=batch, micro_batch=batch),
        default_speed(),
        device="cpu",
        notify=to_stderr,
    )
