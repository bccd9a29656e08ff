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
    """Begin with initial weights, as run finetune-random: what a pre-training must be better than."""
    epochs: float | None = None
    """Passes over the train split, --optim.epochs; without --optim.warmup_epochs warm-up keeps its share."""
    batch: int | None = None
    """Samples of a step over all ranks, --optim.global_batch; the rate goes with it."""
    base_lr: float | None = None
    """Rate of 256 samples (SimMIM: 512), --optim.base_lr."""
