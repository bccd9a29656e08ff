"""The loop of a run: shards in, checkpoints out.

Resumes by itself, stops on a signal with a checkpoint, rolls back when steps go wrong, says what it does.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Generic

import torch
from rich.console import Console
from torch import Tensor, nn

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.under_way import Journal
from turbomim.pipeline.loader import Loader, LoaderStats
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import FULL
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import rundir
from turbomim.train.folder.checkpoint import State
from turbomim.train.folder.crashes import deadly_list
from turbomim.train.folder.log import Record, RunLog
from turbomim.train.folder.sinks import OF_MODEL
from turbomim.train.loop.data import Batches, open_loader, slow_stage
from turbomim.train.loop.out_of_memory import explained
from turbomim.train.loop.profiling import Profile, part
from turbomim.train.loop.resolved import Resolved
from turbomim.train.loop.save_and_resume import RunCheckpoints
from turbomim.train.loop.step import Step
from turbomim.train.loop.window import Window
from turbomim.train.settings.config import AnyConfig
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.schedule import lr_of_step
from turbomim.train.world.distributed import World
from turbomim.train.world.signals import StopFlag, stop_flag

# log lines between two that say what the steps wait for
SILENCE = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a call of `pretrain` ended."""

    folder: Path
    # done, preempted or dry-run
    status: str
    step: int
    steps: int


class Run(ABC, Generic[AnyConfig]):
    """One process of one run: the loop, and around it logs, checkpoints, signals and errors.

    What is trained, measured and left at the end is a subclass's.  Every rank comes to each of its methods.
    """

    model: nn.Module

    def __init__(
        self,
        resolved: Resolved[AnyConfig],
        split: Split,
        world: World,
        console: Console,
        profile: range = range(0),
    ) -> None:
        self.resolved, self.split, self.world, self.profile = resolved, split, world, profile
        self.config, self.plan = resolved.config, resolved.plan
        self.folder = rundir.run_folder(self.config)
        self.log = RunLog(self.folder, console, rank=world.rank, world=world.size, config=self.config)
        self.model = self.make_model()
        self.optimizer = self.make_optimizer()
        self.checkpoints = RunCheckpoints(self.config, self.plan, split, world, self.model, self.optimizer)
        bad = world.broadcast_from_rank0(lambda: deadly_list(self.folder))
        self.journal = Journal(folder=self.folder, rank=world.rank, bad=bad)
        self.step = 0
        # the checkpoint that the run goes on from, if any
        self.state: State | None = None
        # samples replaced and steps skipped up to the last log line
        self.replaced = self.skipped = 0
        # log lines that say nothing about waiting
        self.silence = 0

    @abstractmethod
    def make_model(self) -> nn.Module:
        """What is trained, with its initial weights, on the device."""

    @abstractmethod
    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the model, groups of the full rate first."""

    @abstractmethod
    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The model's arguments."""

    @abstractmethod
    def measured(self) -> Record:
        """What the second split says of the model, by its names in the log."""

    @abstractmethod
    def finished(self) -> None:
        """Leave what the trained model is wanted for."""

    def batches(self, loader: Loader) -> Batches:
        """What the loop takes micro-batches from, and closes."""
        return loader

    def peak(self, *, bfloat16: bool) -> float | None:
        """FLOP/s of a rank that MFU is a share of, where it is known."""
        return None

    def logged(self) -> dict[str, Tensor]:
        """What the model itself has for the log, () each."""
        return {}

    def begin(self, kept: list[Record]) -> None:
        """Hear what earlier processes of the run have logged, before anything is said."""

    def before_steps(self) -> None:
        """Do what comes before the first step of this process."""

    def scores(self, epoch: float, *, end: bool) -> dict[str, float]:
        """Scores of what was learned, by their names in the log, where they are due."""
        return {}

    def draw(self) -> None:
        """Draw what the model makes of photographs; called every `run.picture_every` steps."""

    @property
    def position(self) -> int:
        """Samples of the stream up to here."""
        return self.step * self.plan.global_batch

    def go(self, found: str | None, said: list[str], about: list[str]) -> Outcome:
        """Train from a checkpoint, or from the start, to the end or a signal.

        said, about: lines for the log, on what was found and on data and device.
        """
        try:
            return self._go(found, said, about)
        except OSError as error:
            # also what closing the logs of a full disk says, and hides the first error with
            if error.errno not in FULL:
                raise
            raise UserError(
                f"{self.folder} cannot be written: {error}; {disk_usage(self.folder).free:,} bytes are free "
                "there; checkpoints are intact: free some space and run the same command again"
            ) from error

    def _go(self, found: str | None, said: list[str], about: list[str]) -> Outcome:
        unlogged = 0
        if found is not None:
            self.state = self.world.run_on_all(lambda: self.checkpoints.resume(Path(found)))
            self.step, unlogged = self.state.step, self.state.window_steps
        with self.log.open(self.step, unlogged) as kept, stop_flag() as flag:
            self.replaced = sum(record.get("replaced", 0) for record in kept)
            self.skipped = sum(record.get("skipped", 0) for record in kept)
            self.begin(kept)
            for line in said:
                self.log.say(line)
            if self.step >= self.plan.steps:
                self.log.say(f"{self.folder} is done: {self.step} of {self.plan.steps} steps; nothing to do")
                return self._finish()
            if self.world.main:
                rundir.write_settings(self.folder, self.config, self.world.device, self.world.size)
            self._say_what(found, about)
            self._status("running")
            if self.world.peers is not None:
                self.world.peers.before_exit = self._fail
            try:
                with self.world.naming_lost_ranks(), self.checkpoints.saver:
                    return self._train(flag)
            except BaseException as error:
                self._fail(str(error) or type(error).__name__)
                raise

    def _fail(self, text: str) -> None:
        """Note how the run failed; on a full disk this fails too, and the first error is the one to show."""
        with contextlib.suppress(UserError):
            self._status("failed")
        with contextlib.suppress(OSError):
            self.log.keep(f"failed at step {self.step}: {' '.join(text.split())}")

    def _say_what(self, found: str | None, about: list[str]) -> None:
        sections = to_dict(self.config)
        for name, section in sections.items():
            self.log.say(f"{name}: " + ", ".join(f"{key} {value}" for key, value in section.items()))
        self.log.say(self.plan.equation(self.config))
        for line in about:
            self.log.say(line)
        begun = "a new run"
        if found is not None:
            # an import, or a fine-tuning, has weights before its first step
            begun = f"resumed from {found}" if self.step else f"a new run from the weights in {found}"
        self.log.say(f"device {self.world.device}, {begun}: step {self.step} of {self.plan.steps}")

    def _train(self, flag: StopFlag) -> Outcome:
        clip = self.config.optim.clip_grad
        step = Step(
            self.model, self.optimizer, self.config.step, self.world, self.plan.micro_steps, clip, self.inputs
        )
        self.before_steps()
        batches = self.world.run_on_all(self._open)
        profile = Profile(
            self.profile if self.world.main else range(0), self.folder, self.plan.local_batch, self.log.say
        )
        with batches, contextlib.closing(profile), self.log.bar(self.step, self.plan.steps):
            stopped = self._loop(batches, step, profile, flag)
        self.world.run_on_all(self.checkpoints.saver.wait)
        if not stopped:
            return self._finish()
        self._status("preempted")
        self.log.say(
            f"stopped by {flag.name or 'another rank'} at step {self.step}; the same command goes on"
        )
        return self._outcome("preempted")

    def _open(self) -> Batches:
        cut = BatchCut(
            global_batch=self.plan.global_batch,
            micro_batch=self.plan.micro_batch,
            rank=self.world.rank,
            world=self.world.size,
            start=self.position,
        )
        loader = open_loader(
            self.config,
            self.split,
            cut,
            self.resolved.loader,
            device=self.world.device.type,
            journal=self.journal,
            notify=self.log.note,
        )
        return self.batches(loader)

    def _loop(self, loader: Batches, step: Step, profile: Profile, flag: StopFlag) -> bool:
        """Step until the end or until any rank was asked to stop; whether it was stopped short of the end."""
        run = self.config.run
        peak = self.peak(bfloat16=step.bfloat16)
        window = Window(self.config, self.plan, self.world, peak, first=True)
        if self.state is not None:
            window.resume(self.state)
        while self.step < self.plan.steps:
            # what is taken for a step counts once the step is done
            used = loader.stats
            profile.begin(used)
            with part("wait"), window.wait.measured():
                batches, error = self._next(loader)
            if self.world.any_rank_stops(stop=bool(flag.name), error=error or self.checkpoints.saver.error()):
                if window.steps > window.earlier_steps:
                    # whoever stops a run gives it seconds
                    self._report(window, used, score=False)
                if self.step:
                    self.checkpoints.save(self.step, window, used)
                return True
            assert batches[0].position == self.position + self.world.rank * self.plan.local_batch
            lr = lr_of_step(self.step, self.plan.samples, self.config.optim)
            window.add(*self._step(step, batches, lr))
            profile.end(loader.stats)
            self.step += 1
            self.log.advance(self.step)
            end = self.step == self.plan.steps
            if self.step % run.log_every == 0 or end:
                bad = self._report(window, loader.stats) >= self.config.optim.max_skipped
                # the same on every rank, as loss and gradient are; still it is one that decides
                bad = self.world.broadcast_from_rank0(partial(bool, bad))
                window = window.next(loader.stats)
                if bad:
                    self.log.say(self.checkpoints.roll_back(self.step))
                    window.sums.zero_()
            if self.step % run.save_every == 0 or end:
                self.checkpoints.save(self.step, window, loader.stats)
            if run.picture_every and (self.step % run.picture_every == 0 or end):
                self.draw()
        return False

    def _next(self, loader: Batches) -> tuple[list[Batch], UserError | None]:
        """The micro-batches of a step, or why there are none: the other ranks must hear of it."""
        try:
            with explained(self.resolved, self.world):
                return list(itertools.islice(loader, self.plan.micro_steps)), None
        except UserError as error:
            return [], error

    def _report(self, window: Window, stats: LoaderStats, *, score: bool = True) -> int:
        """Log the window that ends with this step, with the held-out loss and, of features, scores if due.

        Returns the steps in a row, up to this one, that were not finite.
        """
        run = self.config.run
        record = window.record(self.step, self.optimizer.param_groups[0]["lr"], stats)
        due = run.eval_every and self.step % run.eval_every == 0 and self.step % run.log_every == 0
        if self.step == self.plan.steps or due:
            record |= self.measured()
        if score:
            record |= self.scores(record["epoch"], end=self.step == self.plan.steps)
        self.replaced += record["replaced"]
        self.skipped += record["skipped"]
        record["replaced_total"], record["skipped_total"] = self.replaced, self.skipped
        record["rollbacks"] = self.checkpoints.rollbacks
        record |= {OF_MODEL + name: float(value) for name, value in self.logged().items()}
        self.log.record(record)
        slow = slow_stage(record, self.split, self.resolved.loader, self.world)
        self.silence -= 1
        # a process's first steps wait for the loader to start
        if slow and not record["first"] and self.silence < 0:
            self.log.say(slow)
            self.silence = SILENCE
        return int(record["skipped_in_a_row"])

    def _step(self, step: Step, batches: list[Batch], lr: float) -> tuple[Tensor, Tensor, Tensor]:
        with explained(self.resolved, self.world):
            return step(batches, lr)

    def _finish(self) -> Outcome:
        self.finished()
        if self.replaced:
            self.log.say(
                f"{self.replaced} of {self.position} samples could not be decoded and were replaced; "
                f"each such photograph is named in {self.log.plain}"
            )
        self._status("done")
        self.world.barrier()
        return self._outcome("done")

    def _outcome(self, status: str) -> Outcome:
        return Outcome(folder=self.folder, status=status, step=self.step, steps=self.plan.steps)

    def _status(self, status: str) -> None:
        if self.world.main:
            rundir.set_status(self.folder, status, self.step, self.position)
