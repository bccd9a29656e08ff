"""Options of `turbomim eval linear`, and the published head's settings that they make."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from turbomim.pipeline.stream.philox import SEEDS
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.commands.eval.knn import Eval


@dataclass(frozen=True, kw_only=True)
class Linear(Eval):
    """Score a run's frozen encoder by a linear layer on its features."""

    recipe: Literal["solved", "published"] = "solved"
    """solved: logistic regression, nothing tuned; published: batch norm, LARS, a schedule, as in papers."""
    epochs: float | None = None
    """Passes of the published head over the train samples; 90 if not given."""
    warmup_epochs: float | None = None
    """Passes with a rising rate; a ninth of the epochs if not given."""
    base_lr: float | None = None
    """The published head's rate for 256 samples; 0.1 if not given."""
    head_batch: int | None = None
    """Samples of one step of the published head; 16,384 if not given."""
    augment: bool = False
    """Train the published head on random crops and flips of every epoch instead of central crops."""
    seed: int | None = None
    """Of the published head's weights, order and crops; 0 if not given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """How the published head is trained."""

    epochs: float
    warmup_epochs: float
    base_lr: float
    batch: int
    seed: int


def check_solved(options: Linear) -> None:
    """Raise UsageError for options that the solved probe has nothing of."""
    for name in ("augment", "epochs", "warmup_epochs", "base_lr", "head_batch", "seed"):
        value = getattr(options, name)
        if value is not None and value is not False:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is of --recipe published: give both, or leave it out")


def settle_head(options: Linear) -> Head:
    """The published head's settings, as given and else as published; warm-up keeps its share of the epochs.

    Raises UsageError for numbers that cannot be.
    """
    epochs = 90.0 if options.epochs is None else options.epochs
    head = Head(
        epochs=epochs,
        warmup_epochs=epochs / 9 if options.warmup_epochs is None else options.warmup_epochs,
        base_lr=0.1 if options.base_lr is None else options.base_lr,
        batch=16_384 if options.head_batch is None else options.head_batch,
        seed=options.seed or 0,
    )
    for flag, value, least in (
        ("--batch", options.batch, 1),
        ("--head-batch", head.batch, 2),
        ("--samples", options.samples or 0, 0),
        ("--seed", head.seed, 0),
    ):
        if value < least:
            raise UsageError(f"{flag} {value}: must be at least {least}")
    if head.seed >= SEEDS:
        raise UsageError(f"--seed {head.seed}: must be below 2**63")
    for flag, number in (("--epochs", head.epochs), ("--base-lr", head.base_lr)):
        if not 0 < number < math.inf:
            raise UsageError(f"{flag} {number:g}: must be above 0")
    if not 0 <= head.warmup_epochs <= head.epochs:
        raise UsageError(
            f"--warmup-epochs {head.warmup_epochs:g}: must be 0 to --epochs, which is {head.epochs:g}"
        )
    return head


def fitting_batch(samples: int) -> int:
    """A power of two that makes eight steps or more of an epoch, where there are samples for them."""
    return int(2 ** max(1, (samples // 8).bit_length() - 1))
