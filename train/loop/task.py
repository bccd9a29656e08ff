"""What a run leaves to its task: the model and its inputs, what is measured, and what stays at the end."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.loader import Loader
from turbomim.train.folder.log import Record
from turbomim.train.loop.data import Batches


class Task(ABC):
    """Pre-training or fine-tuning, as `Run` sees it.

    One process of a run calls, in this order:

    1. `before_steps`, once;
    2. `batches`, once, and then `inputs` of every micro-batch;
    3. at a log line `evaluate` (every `run.eval_every` steps and at the end), `score_features` and
       `model_numbers`; at the line of a stop `model_numbers` alone;
    4. `draw`, every `run.picture_every` steps and at the end;
    5. `finish`, after the last step of the run; also where an earlier process took that step.

    Every rank comes to each of these calls.
    """

    # with initial weights, on the device; a checkpoint is loaded into it
    model: nn.Module
    # first a group whose rate is the one before layer decay
    optimizer: torch.optim.Optimizer
    # FLOP/s of a rank that MFU is a share of, None where it is not known
    peak_flops: float | None = None

    def before_steps(self, logged: list[Record]) -> None:
        """Do what comes before the first step of a process; logged: what earlier processes have logged."""
        return

    def batches(self, loader: Loader) -> Batches:
        """What the loop takes micro-batches from, and closes: the loader, or what goes over its batches."""
        return loader

    @abstractmethod
    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The model's arguments, whose result is the loss."""

    @abstractmethod
    def evaluate(self) -> Record:
        """Metrics of the model on the second split, by their names in the log."""

    def score_features(self, epoch: float, *, end: bool) -> dict[str, float]:
        """Scores of the features, by their names in the log.  The task decides when they are due.

        epoch: passes over the data up to this log line; end: whether it is the last.
        """
        return {}

    def model_numbers(self) -> dict[str, Tensor]:
        """Numbers that the model adds to a log line, () each."""
        return {}

    def draw(self, step: int) -> None:
        """Draw what the model makes of photographs after a step."""
        return

    @abstractmethod
    def finish(self, step: int) -> None:
        """Write what the run is for: an export or a result of the model after its last step."""
