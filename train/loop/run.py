"""The loop of a run: shards in, checkpoints out, for every task.

It resumes by itself, stops on a signal with a checkpoint, rolls back when steps go wrong, says what it does.
"""

import contextlib
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.loader import LoaderStats
from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import Stopped, UserError
from turbomim.train.folder import rundir
from turbomim.train.folder.checkpoint import State
from turbomim.train.folder.log import Record
from turbomim.train.loop.checkpoints import RunCheckpoints
from turbomim.train.loop.data import LINES_BETWEEN_HINTS, Batches, open_loader, slow_stage
from turbomim.train.loop.log_window import LogWindow
from turbomim.train.loop.out_of_memory import explaining_out_of_memory
from turbomim.train.loop.profiling import Profile, part
from turbomim.train.loop.session import RunFolder, Session
from turbomim.train.loop.shares import filling
from turbomim.train.loop.step import Step
from turbomim.train.loop.storage import StorageWindow
from turbomim.train.loop.task import Task
from turbomim.train.optim.average import Average
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.schedule import lr_of_step
from turbomim.train.trackers.scalars import OF_MODEL
from turbomim.train.world.signals import StopFlag, stop_flag


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a process of a run ended."""

    folder: Path
    # done, preempted, or the dry-run of a pre-training, which makes no `Run`
    status: str
    step: int
    steps: int


class Run:
    """One process of one run: the loop, and around it log, checkpoints, signals and errors.

    session: what the run is made of; folder: where it keeps everything; task: what is trained, measured and
    left at the end; profile: steps of this process that are profiled.

    Each calls the next: `go` resumes and opens the log; `_run_noting_errors` says what the run is (status
    running) and notes errors (failed); `_train` opens the data and says how the run ended (done, preempted);
    `_loop` takes the steps.
    """

    def __init__(
        self, session: Session[Any], folder: RunFolder, task: Task, profile: range = range(0)
    ) -> None:
        self.session, self.folder, self.task, self.profile = session, folder, task, profile
        self.config, self.plan, self.world = session.config, session.plan, session.world
        self.log = folder.log
        self.average = Average(task.model, self.config.optim.ema)
        self.checkpoints = RunCheckpoints(session, task.model, task.optimizer, self.average, folder.mirror)
        self.step = 0
        # what the checkpoint knows that the run goes on from, if there is one
        self.resumed_from: State | None = None
        # samples replaced and steps skipped up to the last log line
        self.replaced = self.skipped = 0
        self.storage = StorageWindow(split=session.split, world=self.world)
        self.lines_since_hint = LINES_BETWEEN_HINTS

    @property
    def position(self) -> int:
        """Samples of the stream up to here."""
        return self.step * self.plan.global_batch

    @property
    def at_end(self) -> bool:
        """Whether every step of the run is taken."""
        return self.step >= self.plan.steps

    def go(self) -> Outcome:
        """Train from the checkpoint in the folder, or from the start, to the end or a signal."""
        with rundir.explaining_full_disk(self.folder.path):
            # steps that no whole log line counts yet: a line that a stop wrote of them is dropped
            unlogged, found = 0, self.folder.checkpoint
            if found is not None:
                self.checkpoints.bring_to_all_machines(found)
                decayed = self.folder.decayed
                self.resumed_from = self.world.run_on_all(lambda: self.checkpoints.resume(found, decayed))
                self.step, unlogged = self.resumed_from.step, self.resumed_from.window_steps
            with (
                self.log.open(self.step, unlogged) as logged,
                TRAFFIC.telling(self.log.note, self.world.size),
                stop_flag() as flag,
                self._mirroring(),
            ):
                self.replaced = sum(record.get("replaced", 0) for record in logged)
                self.skipped = sum(record.get("skipped", 0) for record in logged)
                for line in self.folder.notes:
                    self.log.say(line)
                if not self.at_end:
                    return self._run_noting_errors(flag, logged)
                done = f"{self.step} of {self.plan.steps} steps"
                self.log.say(rundir.about_done(self.folder.path, self.config, done))
                # an error in here leaves the run as it was: done
                return self._finish()

    def _run_noting_errors(self, flag: StopFlag, logged: list[Record]) -> Outcome:
        if self.world.main:
            step = replace(self.config.step, precision=self.session.asked_precision)
            asked = replace(self.config, step=step)
            rundir.write_settings(self.folder.path, asked, self.world.device, self.world.size)
        self._say_what()
        self._status("running")
        if self.world.peers is not None:
            # a process that hangs because a rank is lost is ended without an exception
            self.world.peers.before_exit = self._fail
        try:
            with self.world.naming_lost_ranks(), self.checkpoints.saver:
                return self._train(flag, logged)
        except BaseException as error:
            self._fail(str(error) or type(error).__name__)
            raise

    def _mirroring(self) -> contextlib.AbstractContextManager[None]:
        """Within it the run folder is copied to its mirror, if there is one."""
        mirror = self.folder.mirror
        return contextlib.nullcontext() if mirror is None else mirror.beside_steps(self.log.say)

    def _fail(self, text: str) -> None:
        """Note how the run failed; on a full disk this fails too, and the first error is the one to show."""
        with contextlib.suppress(UserError):
            self._status("failed")
        with contextlib.suppress(OSError):
            self.log.write_to_file(f"failed at step {self.step}: {' '.join(text.split())}")

    def _say_what(self) -> None:
        sections = to_dict(self.config)
        for name, section in sections.items():
            self.log.say(f"{name}: " + ", ".join(f"{key} {value}" for key, value in section.items()))
        self.log.say(self.plan.equation(self.config))
        for line in self.session.about:
            self.log.say(line)
        begun, found = "a new run", self.folder.checkpoint
        if found is not None:
            # an import, or a fine-tuning, has weights before its first step
            begun = f"resumed from {found}" if self.step else f"a new run from the weights in {found}"
        self.log.say(f"device {self.world.device}, {begun}: step {self.step} of {self.plan.steps}")

    def _train(self, flag: StopFlag, logged: list[Record]) -> Outcome:
        train_step = Step(
            self.task.model,
            self.task.optimizer,
            self.config.step,
            self.world,
            self.plan.micro_steps,
            self.config.optim.clip_grad,
            self.task.inputs,
        )
        self.task.before_steps(logged)
        batches = self.world.run_on_all(lambda: self._open_data(flag))
        profiled = self.profile if self.world.main else range(0)
        profile = Profile(profiled, self.folder.path, self.plan.local_batch, self.log.say)
        cache = filling(self.session.split, self.log.note)
        with cache, batches, contextlib.closing(profile), self.log.bar(self.step, self.plan.steps):
            stopped = self._loop(batches, train_step, profile, flag)
        self.world.run_on_all(self.checkpoints.saver.wait)
        if not stopped:
            return self._finish()
        self._status("preempted")
        saved = self.checkpoints.saved_step
        self.log.say(
            f"stopped by {flag.name or 'another rank'} at step {self.step}; the same command goes on"
            + (f" from step {saved}, before steps that were not finite" if saved < self.step else "")
        )
        return self._outcome("preempted")

    def _open_data(self, flag: StopFlag) -> Batches:
        """The micro-batches from this position on; whoever waits for them hears of the flag."""
        cut = BatchCut(
            global_batch=self.plan.global_batch,
            micro_batch=self.plan.micro_batch,
            rank=self.world.rank,
            world=self.world.size,
            start=self.position,
        )
        loader = open_loader(
            self.config,
            self.session.split,
            cut,
            self.session.loader_speed,
            device=self.world.device.type,
            groups=self.config.data.groups,
            journal=self.folder.journal,
            notify=self.log.note,
            stopping=lambda: bool(flag.name),
        )
        return self.task.batches(loader)

    def _loop(self, batches: Batches, train_step: Step, profile: Profile, flag: StopFlag) -> bool:
        """Step until the end, or until any rank was asked to stop; returns whether it was stopped.

        Between two log lines, step by step:

        1. the micro-batches of the step are taken, and the wait for them is measured;
        2. the ranks hear whether any of them has to stop, by a signal or an error;
        3. the step (step.py): loss and gradient norm stay on the device, in the window (log_window.py);
        4. every `run.log_every` steps the window ends: a log line, with measurements where they are due, and
           a roll-back where too many steps were not finite;
        5. every `run.save_every` steps, and before the decay of wsd, a checkpoint is copied to the host, and
           written beside the next steps if `run.save_in_background`;
        6. every `run.picture_every` steps a picture is drawn.

        4 to 6 come after the last step, too.
        """
        run = self.config.run
        if self.config.step.compile and not self.at_end and not self.log.console.is_terminal:
            # where no panel says so
            self.log.say("compiling the step: the first one takes a minute or so")
        window = LogWindow(self.config, self.plan, self.world, self.task.peak_flops, holds_compile=True)
        if self.resumed_from is not None:
            window.resume(self.resumed_from)
        while not self.at_end:
            # data taken for a step counts only after the step
            used = batches.stats
            profile.begin(used)
            with part("wait"), window.wait.measured():
                micro_batches, error = self._next_batches(batches)
            error = error or self.checkpoints.saver.take_error()
            # one exchange for stops and errors: an error of any rank's data or checkpoint is raised on all;
            # an error within the step ends its own rank, and the others name that one as lost
            if self.world.any_rank_stops(stop=bool(flag.name), error=error):
                self._stop(window, used)
                return True
            window.add(*self._take_step(train_step, micro_batches))
            profile.end(batches.stats)
            self.step += 1
            self.log.advance(self.step)
            if self.step % run.log_every == 0 or self.at_end:
                # the next window: it knows of a row of skipped steps, in which nothing is saved
                window = self._end_window(window, batches.stats)
            if self.checkpoints.due(self.step):
                self.checkpoints.save(self.step, window, batches.stats)
            if run.picture_every and (self.step % run.picture_every == 0 or self.at_end):
                with self.average.in_place():
                    self.task.draw(self.step)
        return False

    def _next_batches(self, batches: Batches) -> tuple[list[Batch], UserError | None]:
        """The micro-batches of a step, which never run out, or the error that other ranks must hear of.

        None of both where a stop was asked for while they were waited for.
        """
        try:
            with explaining_out_of_memory(self.session):
                return list(itertools.islice(batches, self.plan.micro_steps)), None
        except Stopped:
            return [], None
        except UserError as error:
            return [], error

    def _take_step(self, train_step: Step, micro_batches: list[Batch]) -> tuple[Tensor, Tensor, Tensor]:
        assert micro_batches[0].position == self.position + self.world.rank * self.plan.local_batch
        lr = lr_of_step(self.step, self.plan.samples, self.config.optim)
        with explaining_out_of_memory(self.session):
            metrics = train_step(micro_batches, lr)
            self.average.update(self.step, skipped=metrics[-1])
        return metrics

    def _stop(self, window: LogWindow, stats: LoaderStats) -> None:
        """Log and save what there is.  There may be only seconds for it, so nothing is evaluated.

        The next process drops this line and logs the whole window.  A step is not written to the disk twice.
        """
        if window.own_steps:
            self._write_log_line(window.to_record(self.step, self._lr, stats))
        if self.step:
            self.checkpoints.save(self.step, window, stats)

    def _end_window(self, window: LogWindow, stats: LoaderStats) -> LogWindow:
        """Write a log line, with what is measured if that is due, and return the next window.

        If too many steps in a row up to here were not finite, roll back to good weights.  The line comes
        before that: it is about the weights that these steps ended with.
        """
        run, end = self.config.run, self.at_end
        record = window.to_record(self.step, self._lr, stats)
        with self.average.in_place():
            if end or (run.eval_every and self.step % run.eval_every == 0):
                record |= self.task.evaluate()
            record |= self.task.score_features(record["epoch"], end=end)
        self._write_log_line(record)
        in_a_row = record["skipped_in_a_row"]
        # the same on every rank, as loss and gradient are; still rank 0 decides
        too_many = self.world.broadcast_from_rank0(lambda: in_a_row >= self.config.optim.max_skipped)
        window = window.next(stats)
        if too_many:
            self.log.say(self.checkpoints.roll_back(self.step))
            window.forget_row()
        return window

    def _write_log_line(self, record: Record) -> None:
        """Write the log line of a window, and now and then what its steps waited for."""
        self.replaced += record["replaced"]
        self.skipped += record["skipped"]
        record["replaced_total"], record["skipped_total"] = self.replaced, self.skipped
        record["rollbacks"] = self.checkpoints.rollbacks
        record |= {OF_MODEL + name: float(value) for name, value in self.task.model_numbers().items()}
        record |= self.storage.record()
        self.log.record(record)
        if again := self.storage.retried():
            self.log.note(again)
        self.storage = self.storage.next()
        slow = slow_stage(record, self.session.split, self.session.loader_speed, self.world)
        # a process's first steps wait for the loader to start
        if slow and not record["first"] and self.lines_since_hint >= LINES_BETWEEN_HINTS:
            self.log.say(slow)
            self.lines_since_hint = 0
        else:
            self.lines_since_hint += 1

    @property
    def _lr(self) -> float:
        """The last step's rate before layer decay."""
        return float(self.task.optimizer.param_groups[0]["lr"])

    def _finish(self) -> Outcome:
        with self.average.in_place():
            self.task.finish(self.step)
        if self.replaced:
            self.log.say(
                f"{self.replaced} of {self.position} samples could not be decoded and were replaced; "
                f"each such photograph is named in {self.log.plain}"
            )
        self._status("done")
        self.world.barrier()
        return self._outcome("done")

    def _outcome(self, status: str) -> Outcome:
        return Outcome(folder=self.folder.path, status=status, step=self.step, steps=self.plan.steps)

    def _status(self, status: str) -> None:
        if self.world.main:
            rundir.set_status(self.folder.path, status, self.step, self.position)
