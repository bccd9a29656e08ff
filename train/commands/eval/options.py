"""The options of `turbomim eval`; a file that imports no torch, so that --help need not wait for it."""

from dataclasses import dataclass, field
from pathlib import Path

from turbomim.train.evaluate.scoring import LinearScoring, Scoring
from turbomim.train.finetune.asked import FinetuneAsked
from turbomim.train.settings.finetune import FinetuneSettings
from turbomim.train.settings.options import EncoderPath, LearnedSplit, PretrainedPath, ScoredSplit


@dataclass(frozen=True, kw_only=True)
class Eval(Scoring):
    """Score a run's frozen encoder on labelled splits: nothing of it is trained."""

    run: EncoderPath
    train: LearnedSplit
    test: ScoredSplit
    json: Path | None = None
    """File for the scores; RUN/eval/NAME.json if not given, and none of a FILE."""


@dataclass(frozen=True, kw_only=True)
class EvalLinear(LinearScoring, Eval):
    """Score a run's frozen encoder by a linear layer on its features."""


@dataclass(frozen=True, kw_only=True)
class Finetune(FinetuneAsked):
    """Train an encoder and a new head on labels by the published recipe of its method, and test it.

    Resumes by the same command.  Any setting of pretrain may follow as --section.field VALUE, as those of
    the section finetune: --step.compile false, --run.name other ….
    """

    run: PretrainedPath
    train: LearnedSplit
    test: ScoredSplit
    json: Path | None = None
    """File for the result, besides the run's own; RUN/eval/NAME.json if not given, and none of a FILE."""


@dataclass(frozen=True, kw_only=True)
class FinetuneHelp(Finetune):
    """The same with the settings of fine-tuning's own section, for --help and for completion."""

    __doc__ = Finetune.__doc__
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    """MAE ViT-B's values: other methods and sizes have their own, docs/evaluation.md lists them."""
