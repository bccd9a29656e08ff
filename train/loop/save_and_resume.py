"""The checkpoints of a run: resumed from, written beside the steps, gone back to when steps go wrong."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from turbomim.pipeline.loader import LoaderStats
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.saver import Saver
from turbomim.train.loop.rollback import MOST, check_rollbacks, roll_back
from turbomim.train.loop.window import Window
from turbomim.train.machine.versions import versions
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.plan import Plan
from turbomim.train.world.distributed import World


class RunCheckpoints:
    """Weights and moments of one run on the disk, in ckpt/ of its folder.

    saver: what writes, to be entered, and to be asked for errors and waited for.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        split: Split,
        world: World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._config, self._plan, self._split, self._world = config, plan, split, world
        self._model, self._optimizer = model, optimizer
        self._folder = rundir.run_folder(config) / "ckpt"
        self.saver = Saver(self._folder, keep=config.run.keep, background=config.run.save_in_background)
        # the step to roll back to, and how often the run did
        self.good = self.rollbacks = 0

    def resume(self, found: Path) -> checkpoint.State:
        """Take everything from a checkpoint; what else it knows.  Every rank calls it.  Raises UserError."""
        checkpoint.load(found, self._model, self._optimizer)
        state = checkpoint.read_state(found)
        self.good, self.rollbacks = state.good, state.rollbacks
        return state

    def save(self, step: int, window: Window, stats: LoaderStats) -> None:
        """Copy everything to the host and hand it to the saver; every rank comes here.

        stats: of the loader, up to the step.
        """
        end = step == self._plan.steps
        # in a row of skipped steps the weights may be what is wrong: resume before it, as a roll-back would
        if self._world.broadcast_from_rank0(lambda: window.in_a_row > 0 and not end):
            return
        if end or step % self._config.run.save_every == 0:
            self.good = step
        state = checkpoint.State(
            step=step,
            position=step * self._plan.global_batch,
            fingerprint=self._split.manifest.fingerprint,
            config=to_dict(self._config),
            versions=versions(),
            good=self.good,
            rollbacks=self.rollbacks,
            **window.state(stats),
        )
        snapshot = checkpoint.capture(self._model, self._optimizer, state, keep=self._world.main)
        self._world.run_on_all(lambda: self.saver.save(snapshot) if self._world.main else None)

    def roll_back(self, step: int) -> str:
        """Take the last good weights, to go on with the data that comes next; what was done, in words.

        Every rank comes here.  Raises UserError if it was done too often.
        """
        config = self._config
        self._world.broadcast_from_rank0(lambda: check_rollbacks(self.rollbacks, step, config))
        # what it goes back to may be under way to the disk
        self._world.run_on_all(self.saver.wait)
        back = partial(roll_back, self._folder, self.good, config, self._model, self._optimizer)
        to = self._world.run_on_all(back)
        self.rollbacks += 1
        size = self._plan.global_batch
        return (
            f"step {step}: {config.optim.max_skipped} steps or more in a row were not finite; "
            f"rolled back to {to}, roll-back {self.rollbacks} of {MOST}; samples "
            f"{self.good * size} to {step * size - 1} of the stream are passed over"
        )
