"""What an evaluation of frozen features is asked for; a file that imports no torch, for --help."""

from dataclasses import dataclass
from typing import Literal

from turbomim.train.settings.config import Device


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The splits and the crops that frozen features are scored on, and where images are encoded."""

    train: str
    """Labelled split that is learned from."""
    test: str
    """Labelled split that is scored, all of it."""
    samples: int | None = None
    """Train samples, drawn once and for all; 0 = all; 10,000 if not given (all with --recipe published)."""
    size: int | None = None
    """Side of the crops, pixels; the encoder's if not given.  Another resamples its positions."""
    batch: int = 128
    """Images encoded at once: decides speed and memory alone."""
    device: Device = "auto"
    """Where images are encoded."""


@dataclass(frozen=True, kw_only=True)
class LinearScoring(Scoring):
    """Which linear layer is trained on them, and how."""

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
