"""What an evaluation of frozen features is asked for; a file that imports no torch, for --help."""

from dataclasses import dataclass

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
