"""What a fine-tuning is asked for; a file that imports no torch, for --help."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FinetuneAsked:
    """The splits of a fine-tuning, and what most people change of the published recipe."""

    train: str
    """Labelled split that is learned from."""
    test: str
    """Labelled split that is scored, all of it."""
    random: bool = False
    """Begin with the encoder's random initial weights instead: what its training must be better than.  The
    run's name is finetune-random then, if no other is given."""
    epochs: float | None = None
    """Passes over the train split, --optim.epochs; without --optim.warmup_epochs warm-up keeps its share."""
    batch: int | None = None
    """Samples of a step over all ranks, --optim.global_batch; the rate goes with it."""
    base_lr: float | None = None
    """Rate of 256 samples (SimMIM: 512), --optim.base_lr."""
