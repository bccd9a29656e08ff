"""Learning rate and length of a run as pure functions of the step."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from turbomim.pipeline.system.errors import need
from turbomim.train.settings.config import AnyConfig
from turbomim.train.settings.optim import OptimConfig


def total_steps(epochs: float, samples: int, global_batch: int) -> int:
    """Optimizer steps that show at least `epochs` times `samples` samples.

    Epochs follow each other in the stream.
    """
    return math.ceil(epochs * samples / global_batch)


# parts of a schedule, in epochs
PARTS = ("warmup_epochs", "lr_drop_epochs", "decay_epochs")


class Kept(float):
    """Epochs of a part that was named beside steps: no share of anything."""


def with_shares(optim: Mapping[str, Any], base: OptimConfig) -> dict[str, Any]:
    """Settings of section `optim`, with what follows from a new length of the run.

    Of fewer epochs alone its parts keep their share: over a warm-up of 40 of 800, {"epochs": 80} becomes
    {"epochs": 80, "warmup_epochs": 4.0, …}.  More epochs leave them as they are, and what is named is as it
    is named.  Epochs take the place of steps.  How many epochs steps are is known with the data: `with_steps`
    keeps the shares of `epochs` then; a part that is named beside steps is `Kept`.
    """
    given = dict(optim)
    try:
        epochs, steps = (float(str(given.get(name, 0))) for name in ("epochs", "steps"))
        named = {name: Kept(str(given[name])) for name in PARTS if name in given}
    except ValueError:
        # what is no number is refused with its name
        return given
    if "epochs" in given:
        shorter = {name: getattr(base, name) * epochs / base.epochs for name in PARTS}
        return {"steps": 0, **(shorter if 0 < epochs < base.epochs else {}), **given}
    if not (steps if "steps" in given else base.steps):
        return given
    # other steps: what was kept is a share of them
    shares = {name: float(getattr(base, name)) for name in PARTS} if "steps" in given else {}
    # no warm-up is longer than the epochs, nor with a decay behind it
    room = max(base.epochs, named.get("warmup_epochs", 0.0) + named.get("decay_epochs", 0.0))
    return {**shares, **given, **named, "epochs": float(room)}


def has_shares(optim: Mapping[str, Any], base: OptimConfig) -> bool:
    """Whether the parts of a run's schedule are what `base` has, or its shares of fewer epochs."""
    try:
        epochs = float(str(optim["epochs"]))
        # settings of earlier versions have no decay
        parts = [float(str(optim.get(name, getattr(base, name)))) for name in PARTS]
    except (KeyError, ValueError):
        return False
    share = min(1.0, epochs / base.epochs)
    return all(
        math.isclose(part, getattr(base, name) * share) for name, part in zip(PARTS, parts, strict=True)
    )


def with_steps(config: AnyConfig, samples: int) -> AnyConfig:
    """The settings of a run of `optim.steps` steps with the epochs that these are; as they are without steps.

    The parts keep their share of the epochs of the settings, if that makes them shorter and they are not
    `Kept`.  Raises UsageError where warm-up has more epochs than the run, as it cannot if nobody gave its
    epochs.
    """
    optim = config.optim
    if not optim.steps:
        return config
    epochs = optim.steps * optim.global_batch / samples
    share = min(1.0, epochs / optim.epochs)
    given = {name: getattr(optim, name) for name in PARTS}
    parts: dict[str, Any] = {
        name: float(part) if isinstance(part, Kept) else part * share for name, part in given.items()
    }
    legal = f"0 to {epochs:g}, the epochs of optim.steps ({optim.steps})"
    need(parts["warmup_epochs"] <= epochs, "optim.warmup_epochs", optim.warmup_epochs, legal)
    return replace(config, optim=replace(optim, epochs=epochs, **parts))


def run_steps(optim: OptimConfig, samples: int) -> int:
    """Optimizer steps of a run over a split of `samples` samples."""
    return optim.steps or total_steps(optim.epochs, samples, optim.global_batch)


# what may be another in a longer run of the schedule wsd, up to its decay
OF_LENGTH = ("epochs", "steps", "decay_epochs")


def prolongs(one: OptimConfig, other: OptimConfig) -> bool:
    """Whether both are of the schedule wsd, and the other is longer; both know their epochs."""
    return one.schedule == other.schedule == "wsd" and other.epochs > one.epochs


def as_long(one: AnyConfig, other: AnyConfig) -> AnyConfig:
    """The first settings with the length of the other ones, where these prolong them; else as they are.

    Of smaller images first, shares of a longer run would be other steps: nothing prolongs such a run.
    """
    if not prolongs(one.optim, other.optim) or other.data.sizes:
        return one
    length = {name: getattr(other.optim, name) for name in OF_LENGTH}
    return replace(one, optim=replace(one.optim, **length))


def stable_steps(optim: OptimConfig, samples: int) -> int:
    """Optimizer steps before the decay of wsd: those of warm-up, and those at the full rate."""
    return total_steps(optim.epochs - optim.decay, samples, optim.global_batch)


def lr_of_step(step: int, samples: int, optim: OptimConfig) -> float:
    """Rate of an optimizer step, the first being 0, of a split of `samples` samples.

    With published_slips that of the step before: SimMIM's loop sets the rate after the step.
    """
    if optim.warmup == "mmengine":
        return _lr_of_mmengine(step, samples, optim)
    if optim.schedule == "wsd" and step >= stable_steps(optim, samples):
        return _lr_of_decay(step, samples, optim)
    shown = max(step - 1, 0) if optim.published_slips else step
    return lr_at(shown * optim.global_batch / samples, optim)


def lr_at(epoch: float, optim: OptimConfig) -> float:
    """Rate at a fractional epoch: linear warm-up from warmup_start * lr, then cosine to min_lr, or one drop.

    Of wsd the full rate follows warm-up: its decay is by whole steps, in `lr_of_step`.

    Source: the published MAE schedule; the drop, a warm-up that starts above zero and, with published_slips,
    the cosine of all epochs that warm-up covers the start of are SimMIM's.
    """
    if epoch < optim.warmup_epochs:
        start = optim.warmup_start
        return optim.lr * (start + (1 - start) * epoch / optim.warmup_epochs)
    if optim.schedule == "step":
        return optim.lr * (0.1 if epoch >= optim.lr_drop_epochs else 1.0)
    if optim.schedule == "wsd":
        return optim.lr
    first = 0.0 if optim.published_slips else optim.warmup_epochs
    span = max(optim.epochs - first, 1e-12)
    return _cosine((epoch - first) / span, optim)


def _lr_of_mmengine(step: int, samples: int, optim: OptimConfig) -> float:
    """Rate of a step by whole steps: the last one of warm-up has the full rate, and so has the next.

    Source: mmengine's LinearLR (begin 0, end E) and CosineAnnealingLR (T_max of the epochs behind E), both
    with convert_to_iter_based, of mmselfsup's PixMIM and mmpretrain's MFF.  Their epochs are whole steps; of
    ours, which follow each other in the stream, a part of a step counts as one.
    """
    warm, steps = total_steps(optim.warmup_epochs, samples, optim.global_batch), run_steps(optim, samples)
    if step < warm:
        start = optim.warmup_start
        return optim.lr * (start + (1 - start) * step / max(warm - 1, 1))
    return _cosine((step - warm) / max(steps - warm, 1), optim)


def _lr_of_decay(step: int, samples: int, optim: OptimConfig) -> float:
    """Rate of a step of wsd's decay, by whole steps: lr - (lr - min_lr) * sqrt(share of it that is done).

    Source: arXiv:2405.18392, whose best shape this is, best over a fifth of the run; the schedule is that of
    MiniCPM, arXiv:2404.06395.
    """
    first, steps = stable_steps(optim, samples), run_steps(optim, samples)
    done = min((step - first) / max(steps - first, 1), 1.0)
    return optim.lr - (optim.lr - optim.min_lr) * math.sqrt(done)


def _cosine(done: float, optim: OptimConfig) -> float:
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
