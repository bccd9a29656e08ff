"""The options of `turbomim eval`; a file that imports no torch, so that --help need not wait for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from turbomim.train.evaluate.scoring import Scoring
from turbomim.train.settings.options import EncoderPath, LearnedSplit, ScoredSplit


@dataclass(frozen=True, kw_only=True)
class Eval(Scoring):
    """Score a run's frozen encoder on labelled splits: nothing of it is trained."""

    run: EncoderPath
    train: LearnedSplit
    test: ScoredSplit
    json: Path | None = None
    """File for the scores; RUN/eval/NAME.json if not given, and none of a FILE."""


@dataclass(frozen=True, kw_only=True)
class EvalLinear(Eval):
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


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train an encoder and a new head on labels by the published recipe of its method, and test it.

    Resumes by the same command.  Any setting of pretrain, and those of the section finetune, may follow as
    --section.field VALUE: --finetune.layer_decay 0.75, --step.compile false, --run.name other ….
    """

    run: EncoderPath
    train: LearnedSplit
    test: ScoredSplit
    random: bool = False
    """Begin with the encoder's random initial weights instead: what its training must be better than.  The
    run's name is finetune-random then, if no other is given."""
    epochs: float | None = None
    """Passes over the train split, --optim.epochs; without --optim.warmup_epochs warm-up keeps its share."""
    batch: int | None = None
    """Samples of a step over all ranks, --optim.global_batch; the rate goes with it."""
    base_lr: float | None = None
    """Rate of 256 samples (SimMIM: 512), --optim.base_lr."""
    json: Path | None = None
    """File for the result, besides the run's own; RUN/eval/NAME.json if not given, and none of a FILE."""
