"""Learning rate and length of a run as pure functions of the step."""

import math
from collections.abc import Mapping
from typing import Any

from turbomim.train.settings.config import OptimConfig


def total_steps(epochs: float, samples: int, global_batch: int) -> int:
    """Optimizer steps that show at least `epochs` times `samples` samples.

    Epochs follow each other in the stream.
    """
    return math.ceil(epochs * samples / global_batch)


def with_shares(optim: Mapping[str, Any], base: OptimConfig) -> dict[str, Any]:
    """Settings of section `optim`, with the parts of the schedule that fewer epochs shorten too.

    Of epochs alone warm-up and drop keep their share: over 40 of 800, {"epochs": 80} becomes {"epochs": 80,
    "warmup_epochs": 4.0, …}.  More epochs leave them as they are, and what is named is as it is named.
    """
    try:
        given = float(str(optim.get("epochs")))
    except ValueError:
        return dict(optim)
    parts = {"warmup_epochs": base.warmup_epochs, "lr_drop_epochs": base.lr_drop_epochs}
    if not 0 < given < base.epochs:
        return dict(optim)
    return {**{name: epochs * given / base.epochs for name, epochs in parts.items()}, **optim}


def lr_of_step(step: int, samples: int, optim: OptimConfig) -> float:
    """Rate of an optimizer step, the first being 0, of a split of `samples` samples.

    With published_slips that of the step before: SimMIM's loop sets the rate after the step.
    """
    if optim.warmup == "mmengine":
        return _lr_of_mmengine(step, samples, optim)
    shown = max(step - 1, 0) if optim.published_slips else step
    return lr_at(shown * optim.global_batch / samples, optim)


def lr_at(epoch: float, optim: OptimConfig) -> float:
    """Rate at a fractional epoch: linear warm-up from warmup_start * lr, then cosine to min_lr, or one drop.

    Source: the published MAE schedule; the drop, a warm-up that starts above zero and, with published_slips,
    the cosine of all epochs that warm-up covers the start of are SimMIM's.
    """
    if epoch < optim.warmup_epochs:
        start = optim.warmup_start
        return optim.lr * (start + (1 - start) * epoch / optim.warmup_epochs)
    if optim.schedule == "step":
        return optim.lr * (0.1 if epoch >= optim.lr_drop_epochs else 1.0)
    first = 0.0 if optim.published_slips else optim.warmup_epochs
    span = max(optim.epochs - first, 1e-12)
    return _cosine((epoch - first) / span, optim)


def _lr_of_mmengine(step: int, samples: int, optim: OptimConfig) -> float:
    """Rate of a step by whole steps: the last one of warm-up has the full rate, and so has the next.

    Source: mmengine's LinearLR (begin 0, end E) and CosineAnnealingLR (T_max of the epochs behind E), both
    with convert_to_iter_based, of mmselfsup's PixMIM and mmpretrain's MFF.  Their epochs are whole steps; of
    ours, which follow each other in the stream, a part of a step counts as one.
    """
    warm, steps = (total_steps(e, samples, optim.global_batch) for e in (optim.warmup_epochs, optim.epochs))
    if step < warm:
        start = optim.warmup_start
        return optim.lr * (start + (1 - start) * step / max(warm - 1, 1))
    return _cosine((step - warm) / max(steps - warm, 1), optim)


def _cosine(done: float, optim: OptimConfig) -> float:
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
