"""The loop: shards in, checkpoints out.

Resumes by itself, stops on a signal with a checkpoint, says what it does.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from rich.console import Console
from torch import Tensor

from turbomim.pipeline.errors import UserError
from turbomim.pipeline.loader import Batch, Loader, LoaderStats
from turbomim.pipeline.shards import Split
from turbomim.train import checkpoint, rundir
from turbomim.train.config import Config, to_dict
from turbomim.train.data import describe, open_data, open_loader, slow_stage
from turbomim.train.distributed import World, start
from turbomim.train.doctor import find_compiler
from turbomim.train.export import export_encoder
from turbomim.train.heldout import heldout_loss
from turbomim.train.log import RunLog
from turbomim.train.models.mae import MAE, flops_per_image
from turbomim.train.optim import make_optimizer
from turbomim.train.plan import Plan, make_plan
from turbomim.train.schedule import lr_at
from turbomim.train.signals import StopFlag, stop_flag
from turbomim.train.step import Step
from turbomim.train.tuned import LoaderSettings, machine_name, read_tuned, resolve
from turbomim.train.window import Window

# steps in a row that may be skipped as not finite before the run ends
MOST_SKIPPED = 10
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


def pretrain(config: Config, *, dry_run: bool = False, console: Console | None = None) -> Outcome:
    """Run or resume a pre-training in runs/NAME.  Raises UserError for anything a user or a file caused."""
    console = console or Console()
    with start(config.step.device) as world:
        if config.step.compile and world.device.type == "cpu" and find_compiler() is None:
            raise UserError(
                "no C++ compiler found: torch.compile needs one on a CPU; "
                "install g++, or go on more slowly with --step.compile false (demo: --compile false)"
            )
        data = config.data
        split = open_data(data.path, "--data.path", data, world)
        heldout = open_data(data.heldout, "--data.heldout", data, world) if data.heldout else None
        plan = world.from_main(lambda: make_plan(config, split.manifest.samples, world.size))
        tuned = world.together(lambda: read_tuned(machine_name(world.device)))
        settings = resolve(data, tuned, world.local_size)
        about_data = describe(data, split, settings, tuned, world)
        if dry_run:
            return _dry_run(config, plan, about_data, world, console)
        folder = rundir.run_folder(config)
        with contextlib.ExitStack() as held:
            found, damaged = world.from_main(lambda: _prepare(folder, config, split, held))
            run = _Run(config, plan, split, heldout, settings, world, console)
            return run.go(found, damaged, about_data)


def _prepare(
    folder: Path, config: Config, split: Split, held: contextlib.ExitStack
) -> tuple[str | None, list[str]]:
    """Lock and check the run folder; return the checkpoint to resume from, if any, and damaged ones."""
    folder.mkdir(parents=True, exist_ok=True)
    held.enter_context(rundir.locked(folder))
    rundir.check_same(folder, config)
    found, damaged = checkpoint.newest(folder / "ckpt")
    if found is not None:
        theirs, ours = checkpoint.read_state(found).fingerprint, split.manifest.fingerprint
        if theirs != ours:
            raise UserError(
                f"{split.path} is not the data set of {found} (fingerprint {ours[:12]}, the checkpoint's is "
                f"{theirs[:12]}): give the same shards, or another --run.name"
            )
    return (str(found) if found else None), [str(path) for path in damaged]


def _dry_run(config: Config, plan: Plan, about_data: str, world: World, console: Console) -> Outcome:
    count = sum(p.numel() for p in MAE(config).parameters())
    if world.main:
        text = (
            f"{yaml.safe_dump(to_dict(config), sort_keys=False)}{plan.equation(config)}\n"
            f"{about_data}\n{count:,} parameters, {flops_per_image(config) / 1e9:.1f} GFLOP an image, "
            f"device {world.device}; dry run: nothing was trained"
        )
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    return Outcome(folder=rundir.run_folder(config), status="dry-run", step=0, steps=plan.steps)


class _Run:
    """One process of one run."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        split: Split,
        heldout: Split | None,
        settings: LoaderSettings,
        world: World,
        console: Console,
    ) -> None:
        self.config, self.plan, self.split, self.heldout, self.world = config, plan, split, heldout, world
        self.settings = settings
        self.folder = rundir.run_folder(config)
        self.log = RunLog(self.folder, console, rank=world.rank, world=world.size)
        self.model = MAE(config).to(world.device)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.step = 0
        # samples of the run up to the last log line
        self.replaced = 0
        # log lines that say nothing about waiting
        self.silence = 0

    @property
    def position(self) -> int:
        return self.step * self.plan.global_batch

    def go(self, found: str | None, damaged: list[str], about_data: str) -> Outcome:
        """Train from a checkpoint, or from the start, to the end or a signal."""
        if found is not None:
            checkpoint.load(Path(found), self.model, self.optimizer)
            self.step = checkpoint.read_state(Path(found)).step
        with self.log.open(self.step) as kept:
            self.replaced = sum(record.get("replaced", 0) for record in kept)
            for path in damaged:
                self.log.say(f"{path} is damaged and was passed over")
            if self.step >= self.plan.steps:
                self.log.say(f"{self.folder} is done: {self.step} of {self.plan.steps} steps; nothing to do")
                return self._finish()
            if self.world.main:
                rundir.describe(self.folder, self.config, self.world.device, self.world.size)
            self._say_what(found, about_data)
            self._status("running")
            try:
                return self._train()
            except BaseException as error:
                self.log.keep(f"failed at step {self.step}: {' '.join(str(error).split())}")
                # on a full disk this fails too, and the first error is the one to show
                with contextlib.suppress(UserError):
                    self._status("failed")
                raise

    def _say_what(self, found: str | None, about_data: str) -> None:
        sections = to_dict(self.config)
        for name, section in sections.items():
            self.log.say(f"{name}: " + ", ".join(f"{key} {value}" for key, value in section.items()))
        self.log.say(self.plan.equation(self.config))
        self.log.say(about_data)
        self.log.say(
            f"device {self.world.device}, {f'resumed from {found}' if found else 'a new run'}: "
            f"step {self.step} of {self.plan.steps}"
        )

    def _train(self) -> Outcome:
        step = Step(self.model, self.optimizer, self.config.step, self.world, self.plan.micro_steps)
        loader = self.world.together(
            lambda: open_loader(
                self.config,
                self.split,
                self.settings,
                self.world,
                global_batch=self.plan.global_batch,
                micro_batch=self.plan.micro_batch,
                start=self.position,
                notify=self.log.note,
            )
        )
        with loader, self.log.bar(self.step, self.plan.steps), stop_flag() as flag:
            stopped = self._loop(loader, step, flag)
        if not stopped:
            return self._finish()
        self._status("preempted")
        self.log.say(
            f"stopped by {flag.name or 'another rank'} at step {self.step}; the same command goes on"
        )
        return self._outcome("preempted")

    def _loop(self, loader: Loader, step: Step, flag: StopFlag) -> bool:
        """Step until the end or until any rank was asked to stop; whether it was stopped short of the end."""
        run = self.config.run
        window = Window(self.config, self.plan, self.world, step.bfloat16, first=True)
        while self.step < self.plan.steps:
            waited = -time.perf_counter()
            batches, error = self._next(loader)
            waited += time.perf_counter()
            if self.world.agree(stop=bool(flag.name), error=error):
                if window.steps:
                    self._report(window, loader.stats)
                if self.step:
                    self._save()
                return True
            assert batches[0].position == self.position + self.world.rank * self.plan.local_batch
            lr = lr_at(self.position / self.plan.samples, self.config.optim)
            window.add(waited, *self._step(step, batches, lr))
            self.step += 1
            self.log.advance(self.step)
            end = self.step == self.plan.steps
            if self.step % run.log_every == 0 or end:
                self._report(window, loader.stats)
                window = window.next(loader.stats)
            if self.step % run.save_every == 0 or end:
                self._save()
        return False

    def _next(self, loader: Loader) -> tuple[list[Batch], UserError | None]:
        """The micro-batches of a step, or why there are none: the other ranks must hear of it."""
        try:
            return list(itertools.islice(loader, self.plan.micro_steps)), None
        except UserError as error:
            return [], error

    def _report(self, window: Window, stats: LoaderStats) -> None:
        """Log the window that ends with this step, with the held-out loss where it is due."""
        run = self.config.run
        record = window.record(self.step, self.optimizer.param_groups[0]["lr"], stats)
        due = run.eval_every and self.step % run.eval_every == 0 and self.step % run.log_every == 0
        if self.step == self.plan.steps or due:
            record["heldout_loss"] = self._heldout_loss()
        self.replaced += record["replaced"]
        record["replaced_total"] = self.replaced
        self.log.record(record)
        self._check_skipped(record["skipped_in_a_row"])
        slow = slow_stage(record, self.split, self.settings, self.world.local_size)
        self.silence -= 1
        # a process's first steps wait for the loader to start
        if slow and not record["first"] and self.silence < 0:
            self.log.say(slow)
            self.silence = SILENCE

    def _step(self, step: Step, batches: list[Batch], lr: float) -> tuple[Tensor, Tensor, Tensor]:
        try:
            return step(batches, lr)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of memory with a micro-batch of {self.plan.micro_batch} images of "
                f"{self.config.data.size} pixels ({' '.join(str(error).split())[:160]}): "
                "halve --optim.micro_batch, which changes no result"
            ) from error

    def _heldout_loss(self) -> float | None:
        if self.heldout is None:
            return None
        batch, note = self.plan.micro_batch, self.log.note
        return heldout_loss(self.model, self.heldout, self.config, self.settings, batch, self.world, note)

    def _check_skipped(self, in_a_row: int) -> None:
        if in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"loss or gradient was not finite in {in_a_row} steps in a row, up to step {self.step}: "
                "the weights were left as they were; "
                f"lower --optim.base_lr ({self.config.optim.base_lr:g}) or look at the data"
            )

    def _finish(self) -> Outcome:
        if self.world.main:
            path = export_encoder(self.model, self.config, self.folder / "export")
            self.log.say(f"the encoder is in {path}; encoder.json beside it has the call that loads it")
        if self.replaced:
            self.log.say(
                f"{self.replaced} of {self.position} samples could not be decoded and were replaced; "
                f"each such photograph is named in {self.log.plain}"
            )
        self._status("done")
        self.world.wait()
        return self._outcome("done")

    def _outcome(self, status: str) -> Outcome:
        return Outcome(folder=self.folder, status=status, step=self.step, steps=self.plan.steps)

    def _save(self) -> None:
        if self.world.main:
            state = checkpoint.State(
                step=self.step,
                position=self.position,
                fingerprint=self.split.manifest.fingerprint,
                config=to_dict(self.config),
                versions=rundir.versions(),
            )
            checkpoint.save(self.folder / "ckpt", self.model, self.optimizer, state, self.config.run.keep)

    def _status(self, status: str) -> None:
        if self.world.main:
            rundir.set_status(self.folder, status, self.step, self.position)
