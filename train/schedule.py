"""Learning rate and length of a run as pure functions of the step."""

from __future__ import annotations

import math

from turbomim.train.config import OptimConfig


def total_steps(epochs: float, samples: int, global_batch: int) -> int:
    """Optimizer steps that show at least `epochs` times `samples` samples.

    Epochs follow each other in the stream.
    """
    return math.ceil(epochs * samples / global_batch)


def lr_at(epoch: float, optim: OptimConfig) -> float:
    """Rate at a fractional epoch: linear warm-up from warmup_start * lr, then cosine to min_lr.

    Evaluated before every optimizer step at epoch = step * global_batch / samples.
    Source: the published MAE schedule; warmup_start > 0 is mmselfsup's start factor.
    """
    if epoch < optim.warmup_epochs:
        start = optim.warmup_start
        return optim.lr * (start + (1 - start) * epoch / optim.warmup_epochs)
    span = max(optim.epochs - optim.warmup_epochs, 1e-12)
    done = min((epoch - optim.warmup_epochs) / span, 1.0)
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * done))
