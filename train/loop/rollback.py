"""What happens after many steps in a row that are not finite: back to good weights, on with other data.

A step that is not finite changes nothing (step.py).  If `optim.max_skipped` of them follow each other up to
a log line, weights and moments go back to the last good checkpoint.  The step and the position in the
stream go on: the data between is passed over, schedule and length of the run stay, and no sample is seen
twice.  Good is a checkpoint of the ordinary schedule (`run.save_every`), never one that a stop wrote in
between; before the first it is the weights at the start.  Within such a row no checkpoint is written.  So
all follows from settings and data, and a run that is killed and resumed rolls back at the same steps to the
same weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint
from turbomim.train.folder.checkpoint import optimizer_tensors
from turbomim.train.models.methods import make_model
from turbomim.train.models.sharding import placed_like
from turbomim.train.settings.config import Config

# of one run; more means that no data is to blame
MOST = 3


def check_rollbacks(rollbacks: int, step: int, config: Config) -> None:
    """Raise UserError if a run has rolled back as often as it may."""
    if rollbacks >= MOST:
        raise UserError(
            f"loss or gradient was not finite in {config.optim.max_skipped} steps or more in a row, up to "
            f"step {step}, after {rollbacks} roll-backs, the most of a run; the weights took none of these "
            f"steps: start a new --run.name with a lower --optim.base_lr (this is {config.optim.base_lr:g}), "
            "or look at the data"
        )


def roll_back(
    folder: Path, good: int, config: Config, model: nn.Module, optimizer: torch.optim.Optimizer
) -> str:
    """Put weights and moments back to the checkpoint of step `good`, 0 for the start; say to what.

    Every rank calls it.  Raises UserError if the checkpoint is not whole.
    """
    # imported weights are the start of their run, and a checkpoint
    if good or (folder / "step-00000000").exists():
        path = checkpoint.at_step(folder, good)
        checkpoint.load(path, model, optimizer)
        return str(path)
    start, ours = make_model(config).state_dict(), model.state_dict()
    model.load_state_dict({name: placed_like(tensor, ours[name]) for name, tensor in start.items()})
    # a moment of zero after zero steps is what a new optimizer has
    for moment in optimizer_tensors(model, optimizer).values():
        moment.zero_()
    return "the weights at the start"
