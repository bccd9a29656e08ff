"""The checkpoints of a run: written beside the steps, resumed from, gone back to when steps go wrong.

A step that is not finite changes nothing (step.py), but the weights before a row of such steps may already be
bad.  So there are roll-backs:

1. At a log line, if the last `optim.max_skipped` steps or more were not finite, weights, moments and average
   go back to the last good checkpoint.
2. Step and position in the stream go on: the data between is passed over, no sample is seen twice, and
   schedule and length of the run stay.
3. Good are the checkpoints of the schedule (`run.save_every`, the last step before the decay of wsd, and the
   end), and before the first the weights at the start.  One that a stop wrote is not: a run that was stopped
   rolls back as one that was not.
4. Within a row no checkpoint is written but that of the end.

So a run that is killed and resumed rolls back at the same steps to the same weights.

The format on the disk is train/folder/checkpoint.py's.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from turbomim.pipeline.loader import LoaderStats
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.checkpoint import Snapshot, State
from turbomim.train.folder.from_mirror import bring_checkpoint
from turbomim.train.folder.mirror import Mirror
from turbomim.train.folder.prolonged import remove_decay
from turbomim.train.loop.log_window import LogWindow
from turbomim.train.loop.session import Session
from turbomim.train.machine.versions import versions
from turbomim.train.models.methods import make_model
from turbomim.train.models.sharding import placed_like
from turbomim.train.optim.average import Average
from turbomim.train.optim.state import optimizer_tensors, zero_moments
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.schedule import stable_steps

# roll-backs of one run; after them the data is not the cause, and the run stops
MAX_ROLLBACKS = 3


class Saver(Closing):
    """Writes snapshots in one thread, one at a time; a context manager that waits for the last.

    folder: of the checkpoints; keep: how many; background: whether `save` returns before it is on the disk;
    mirror: hears of each.
    """

    def __init__(self, folder: Path, *, keep: int, background: bool, mirror: Mirror | None = None) -> None:
        self._folder, self._keep, self._background, self._mirror = folder, keep, background, mirror
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def close(self) -> None:
        """End the thread; a run that fails still finishes the checkpoint under way."""
        self._thread.shutdown()

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write, after the one before is on the disk.  Raises UserError for what befell that one."""
        self.wait()
        self._writing = self._thread.submit(self._write, snapshot)
        if not self._background:
            self.wait()

    def _write(self, snapshot: Snapshot) -> Path:
        if self._mirror is None:
            return checkpoint.write(self._folder, snapshot, self._keep)
        written = checkpoint.write(self._folder, snapshot, self._keep, self._mirror.copying)
        self._mirror.written()
        return written

    def take_error(self) -> UserError | None:
        """The error of a write that has ended; the next call returns None.  It does not wait."""
        if self._writing is None or not self._writing.done():
            return None
        try:
            self.wait()
        except UserError as error:
            return error
        return None

    def wait(self) -> None:
        """Return when nothing is being written.  Raises UserError for what befell the last write."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


class RunCheckpoints:
    """Weights and moments of one run on the disk, in ckpt/ of its folder; every rank calls each method.

    saver: what writes, to be entered, and to be asked for errors and waited for.
    """

    def __init__(
        self,
        session: Session[Any],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average,
        mirror: Mirror | None = None,
    ) -> None:
        self._session, self._world, self._mirror = session, session.world, mirror
        self._model, self._optimizer, self._average = model, optimizer, average
        self._folder = rundir.run_folder(session.config) / "ckpt"
        run = session.config.run
        self.saver = Saver(self._folder, keep=run.keep, background=run.save_in_background, mirror=mirror)
        # steps to roll back to and to resume from, 0 for the start; how often the run rolled back
        self.good_step = self.saved_step = self.rollbacks = 0
        # steps before the decay of wsd, and the last good one of them
        optim, samples = session.config.optim, session.plan.samples
        self._before_decay = stable_steps(optim, samples) if optim.schedule == "wsd" else 0
        self.stable_step = 0

    def bring_to_all_machines(self, path: Path) -> None:
        """Have a checkpoint on every machine's disk: through the mirror, where one lacks the folder.

        Nothing is done without a mirror.  Raises UserError.
        """
        world, mirrored = self._world, self._session.config.run.mirror
        if not mirrored or world.size == world.local_size:
            return
        sums = world.broadcast_from_rank0(lambda: _sums(path))
        lacks = _sums(path) != sums
        if not any(lacking for (lacking,) in world.all_gather([float(lacks)])):
            return
        world.broadcast_from_rank0(lambda: self._mirror.copy_now(path) if self._mirror else None)
        # one rank a machine
        fetches = lacks and world.rank % world.local_size == 0
        place = open_place(mirrored).below(self._session.config.run.name)
        world.run_on_all(lambda: bring_checkpoint(place, path) if fetches else None)

    def resume(self, found: Path, decayed: Sequence[Path]) -> State:
        """Take everything from a checkpoint; what else it knows.  Raises UserError.

        decayed: later ones that it replaces.
        """
        checkpoint.load(found, self._model, self._optimizer, self._average)
        state = checkpoint.read_state(found)
        self.good_step, self.saved_step, self.rollbacks = state.good, state.step, state.rollbacks
        self.stable_step = state.stable
        if self._world.main and decayed:
            remove_decay(found, decayed, state.step)
        return state

    def due(self, step: int) -> bool:
        """Whether the schedule has a checkpoint after a step."""
        every, end = self._session.config.run.save_every, self._session.plan.steps
        return step % every == 0 or step in (self._before_decay, end)

    def save(self, step: int, window: LogWindow, stats: LoaderStats) -> None:
        """Copy everything to the host and hand it to the saver, unless a row of skipped steps is under way.

        stats: the loader's, up to the step.
        """
        config, plan = self._session.config, self._session.plan
        end = step == plan.steps
        # in a row of skipped steps the weights may be what is wrong: resume before it, as a roll-back would
        in_bad_row = self._world.broadcast_from_rank0(lambda: window.in_a_row > 0)
        if in_bad_row and not end:
            return
        self.saved_step = step
        if self.due(step):
            # it may be under way to the disk: a roll-back waits for it, and the one before stays till then
            self.good_step = step
            if step <= self._before_decay:
                self.stable_step = step
        state = State(
            step=step,
            position=step * plan.global_batch,
            fingerprint=self._session.split.manifest.fingerprint,
            config=to_dict(config),
            versions=versions(),
            good=self.good_step,
            stable=self.stable_step,
            rollbacks=self.rollbacks,
            **window.checkpoint_fields(stats),
        )
        snapshot = checkpoint.capture(
            self._model, self._optimizer, state, keep=self._world.main, average=self._average
        )
        self._world.run_on_all(lambda: self.saver.save(snapshot) if self._world.main else None)

    def roll_back(self, step: int) -> str:
        """Take the last good weights, to go on with the data that comes next; says what it did.

        Raises UserError if it was done too often, or the checkpoint is not whole.
        """
        config, size = self._session.config, self._session.plan.global_batch
        self._world.broadcast_from_rank0(lambda: check_rollbacks(self.rollbacks, step, config))
        # what it goes back to may be under way to the disk
        self._world.run_on_all(self.saver.wait)
        good = self._folder / checkpoint.step_name(self.good_step)
        if self._world.broadcast_from_rank0(good.exists):
            self.bring_to_all_machines(good)
        to = self._world.run_on_all(
            lambda: load_good_weights(
                self._folder, self.good_step, config, self._model, self._optimizer, self._average
            )
        )
        self.rollbacks += 1
        return (
            f"step {step}: {config.optim.max_skipped} steps or more in a row were not finite; "
            f"rolled back to {to}, roll-back {self.rollbacks} of {MAX_ROLLBACKS}; samples "
            f"{self.good_step * size} to {step * size - 1} of the stream are passed over"
        )


def _sums(checkpoint: Path) -> str:
    """The recorded checksums of a checkpoint; empty where this machine has none."""
    try:
        return (checkpoint / "SHA256SUMS").read_text(encoding="utf-8")
    except OSError:
        return ""


def check_rollbacks(rollbacks: int, step: int, config: Config) -> None:
    """Raise UserError if a run has rolled back as often as it may."""
    if rollbacks >= MAX_ROLLBACKS:
        raise UserError(
            f"loss or gradient was not finite in {config.optim.max_skipped} steps or more in a row, up to "
            f"step {step}, after {rollbacks} roll-backs, the most of a run; the weights took none of these "
            f"steps: start a new --run.name with a lower --optim.base_lr (this is {config.optim.base_lr:g}), "
            "or look at the data"
        )


def load_good_weights(
    folder: Path,
    good_step: int,
    config: Config,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
) -> str:
    """Put weights, moments and average back to the checkpoint of a step, 0 for the start; says which it took.

    Every rank calls it.  Raises UserError if the checkpoint is not whole.
    """
    # weights of an import or a fine-tuning are the start of their run, and a checkpoint
    if good_step or (folder / "step-00000000").exists():
        path = checkpoint.at_step(folder, good_step)
        checkpoint.load(path, model, optimizer, average)
        return str(path)
    # the same numbers again: they are drawn from settings and names
    start, ours = make_model(config).state_dict(), model.state_dict()
    model.load_state_dict({name: placed_like(tensor, ours[name]) for name, tensor in start.items()})
    # a moment of zero after zero steps is what a new optimizer has
    for moment in optimizer_tensors(model, optimizer).values():
        moment.zero_()
    average.begin()
    return "the weights at the start"


def write_first_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: Config, fingerprint: str
) -> Path:
    """Write a checkpoint of step 0, whose weights a run begins with, and return its path.

    folder: of the checkpoints; optimizer: a new one, which gets moments of zero; fingerprint: of the data,
    empty where the first run says what that is.
    """
    zero_moments(optimizer)
    state = State(step=0, position=0, fingerprint=fingerprint, config=to_dict(config), versions=versions())
    return checkpoint.write(folder, checkpoint.capture(model, optimizer, state), config.run.keep)
