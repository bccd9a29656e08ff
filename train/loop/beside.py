"""What a run does beside its steps: scores, pictures, an export.

The loop knows when; whoever puts a run together says what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from turbomim.pipeline.decoding.under_way import Journal
from turbomim.train.folder.log import Record
from turbomim.train.models.mae import MAE


class Scorer(Protocol):
    """Scores features while they are learned; every rank comes to each of its calls."""

    def begin(self) -> str:
        """Measure what there is before the first step; what that is, in words, empty for nothing."""

    def scores(self, whole_model: Callable[[], MAE], epoch: float, *, end: bool) -> dict[str, float]:
        """Scores by their names in the log; none where none are due."""


# writes the picture of a model after a step, and returns its path
Draw = Callable[[MAE, int], Path]


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """Functions that a pre-training calls at its log lines, every `run.picture_every` steps, and at its end.

    scorer: of the records that earlier processes of the run have logged, what notes a line, and the journal
    of what is decoded.  draw: the main rank's, made before the first step.  export: the main rank's, of the
    trained model and the step; says what came of it.
    """

    scorer: Callable[[Sequence[Record], Callable[[str], None], Journal], Scorer]
    draw: Callable[[Journal], Draw]
    export: Callable[[MAE, int], str]
