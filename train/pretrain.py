"""The loop: shards in, checkpoints out.

Resumes by itself, stops on a signal with a checkpoint, says what it does.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from turbomim.pipeline.errors import UserError
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.shards import Split, open_split
from turbomim.train import checkpoint, rundir
from turbomim.train.config import Config, to_dict
from turbomim.train.distributed import World, cores, start
from turbomim.train.doctor import find_compiler
from turbomim.train.export import export_encoder
from turbomim.train.heldout import heldout_loss
from turbomim.train.log import Record, RunLog, duration
from turbomim.train.models.mae import MAE, flops_per_image
from turbomim.train.optim import make_optimizer
from turbomim.train.peak import peak_flops
from turbomim.train.schedule import lr_at, total_steps
from turbomim.train.signals import StopFlag, stop_flag
from turbomim.train.step import Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a global batch is cut, and how long the run is.  Pure numbers."""

    samples: int
    steps: int
    global_batch: int
    micro_batch: int
    micro_steps: int
    world: int

    def equation(self, config: Config) -> str:
        """The batch and the learning rate, written out."""
        optim = config.optim
        return (
            f"effective batch {self.global_batch} = {self.micro_batch} x {self.micro_steps} x {self.world} "
            f"(micro-batch x accumulation x ranks); lr {optim.lr:g} = {optim.base_lr:g} x "
            f"{self.global_batch}/256; "
            f"{self.steps} steps = {optim.epochs:g} epochs of {self.samples} samples"
        )


def make_plan(config: Config, samples: int, world: int) -> Plan:
    """Cut the global batch over ranks and micro-batches.  Raises UserError where it does not divide."""
    total, micro = config.optim.global_batch, config.optim.micro_batch
    if total % world:
        raise UserError(
            f"optim.global_batch = {total} does not divide over {world} ranks: use a multiple of {world}"
        )
    local = total // world
    micro = micro or local
    if local % micro:
        near = [n for n in range(1, local + 1) if local % n == 0 and n <= micro][-1]
        raise UserError(
            f"optim.micro_batch = {micro} does not divide the {local} samples of a rank "
            f"(global batch {total} / {world} ranks): use a divisor, {near} for example"
        )
    steps = total_steps(config.optim.epochs, samples, total)
    return Plan(
        samples=samples,
        steps=steps,
        global_batch=total,
        micro_batch=micro,
        micro_steps=local // micro,
        world=world,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a call of `pretrain` ended."""

    folder: Path
    # done or preempted
    status: str
    step: int
    steps: int


@dataclass(slots=True)
class _Window:
    """Sums since the last log line; the tensors stay on the device."""

    # whether it holds this process's first step, and so the compilation
    first: bool = False
    begun: float = field(default_factory=time.perf_counter)
    steps: int = 0
    wait_s: float = 0.0
    loss: Tensor | None = None
    skipped: Tensor | None = None
    norm: Tensor | None = None

    def add(self, wait_s: float, loss: Tensor, norm: Tensor, skipped: Tensor) -> None:
        """Count a step.  A skipped one leaves the loss out."""
        loss = torch.where(skipped > 0, 0.0, loss)
        self.steps += 1
        self.wait_s += wait_s
        self.loss = loss if self.loss is None else self.loss + loss
        self.skipped = skipped if self.skipped is None else self.skipped + skipped
        self.norm = norm

    def read(self) -> tuple[float, float, int]:
        """Mean loss of the steps that counted, last gradient norm, skipped steps.

        The only place where the loop waits for the device.
        """
        assert self.loss is not None and self.norm is not None and self.skipped is not None
        loss, norm, skipped = torch.stack([self.loss, self.norm, self.skipped]).tolist()
        return loss / max(self.steps - skipped, 1), norm, int(skipped)


def pretrain(config: Config, *, dry_run: bool = False, console: Console | None = None) -> Outcome:
    """Run or resume a pre-training in runs/NAME.  Raises UserError for anything a user or a file caused."""
    console = console or Console()
    with start(config.step.device) as world:
        if config.step.compile and world.device.type == "cpu" and find_compiler() is None:
            raise UserError(
                "no C++ compiler found: torch.compile needs one on a CPU; "
                "install g++, or go on more slowly with --step.compile false"
            )
        if not config.data.path:
            raise UserError(
                "data.path is empty: give the folder that `turbomim shard make` wrote, --data.path FOLDER"
            )
        split = open_split(Path(config.data.path))
        heldout = open_split(Path(config.data.heldout)) if config.data.heldout else None
        plan = make_plan(config, split.manifest.samples, world.size)
        if dry_run:
            return _dry_run(config, plan, world, console)
        folder = rundir.run_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        if not world.main:
            return _Run(config, plan, split, heldout, world, console).go()
        with rundir.locked(folder):
            rundir.check_same(folder, config)
            rundir.describe(folder, config, world.device, world.size)
            return _Run(config, plan, split, heldout, world, console).go()


def _dry_run(config: Config, plan: Plan, world: World, console: Console) -> Outcome:
    model = MAE(config)
    count = sum(p.numel() for p in model.parameters())
    if world.main:
        console.print(plan.equation(config), highlight=False, soft_wrap=True)
        console.print(
            f"{count:,} parameters, {flops_per_image(config) / 1e9:.1f} GFLOP an image, device "
            f"{world.device}; "
            "dry run: nothing was trained",
            highlight=False,
            soft_wrap=True,
        )
    return Outcome(folder=rundir.run_folder(config), status="dry-run", step=0, steps=plan.steps)


class _Run:
    """One process of one run."""

    def __init__(
        self, config: Config, plan: Plan, split: Split, heldout: Split | None, world: World, console: Console
    ) -> None:
        self.config, self.plan, self.split, self.heldout, self.world = config, plan, split, heldout, world
        self.folder = rundir.run_folder(config)
        self.log = RunLog(self.folder, console, active=world.main)
        self.model = MAE(config).to(world.device)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.step = 0
        self.saved = -1

    @property
    def position(self) -> int:
        return self.step * self.plan.global_batch

    def go(self) -> Outcome:
        self._resume()
        if self.step >= self.plan.steps:
            self.log.say(f"{self.folder} is done: {self.step} of {self.plan.steps} steps; nothing to do")
            self._finish()
            return self._outcome("done")
        with self.log.open(self.step, self.plan.steps):
            self.log.say(self.plan.equation(self.config))
            self.log.say(
                f"{self.config.run.name}: {self.split.manifest.samples} samples in "
                f"{len(self.split.manifest.shards)} "
                f"shards, device {self.world.device}, starting at step {self.step} of {self.plan.steps}"
            )
            with stop_flag() as flag:
                self._status("running")
                try:
                    status = self._train(flag)
                except BaseException:
                    self._status("failed")
                    raise
            if status == "preempted":
                self._status(status)
                self.log.say(f"stopped at step {self.step}; the same command goes on from there")
        return self._outcome(status)

    def _outcome(self, status: str) -> Outcome:
        return Outcome(folder=self.folder, status=status, step=self.step, steps=self.plan.steps)

    def _finish(self) -> None:
        if self.world.main:
            export_encoder(self.model, self.config, self.folder / "export")
        self._status("done")
        self.world.wait()

    def _resume(self) -> None:
        found, damaged = checkpoint.newest(self.folder / "ckpt")
        for path in damaged:
            self.log.say(f"{path} is damaged and was passed over")
        if found is None:
            return
        state = checkpoint.read_state(found)
        if state.fingerprint != self.split.manifest.fingerprint:
            raise UserError(
                f"{self.split.path} is not the data set of {found} "
                f"(fingerprint {self.split.manifest.fingerprint[:12]}, the checkpoint's is "
                f"{state.fingerprint[:12]}): "
                "give the same shards, or another --run.name"
            )
        checkpoint.load(found, self.model, self.optimizer)
        self.step = self.saved = state.step
        self.log.say(f"resumed from {found}")

    def _train(self, flag: StopFlag) -> str:
        data, run = self.config.data, self.config.run
        step = Step(self.model, self.optimizer, self.config.step, self.world, self.plan.micro_steps)
        with Loader(
            self.split,
            size=data.size,
            crop=data.crop,
            scale=data.rrc_scale,
            seed=run.seed,
            global_batch=self.plan.global_batch,
            micro_batch=self.plan.micro_batch,
            rank=self.world.rank,
            world=self.world.size,
            start=self.position,
            device=self.world.device.type,
            threads=data.threads or cores(),
            readers=data.readers,
            prefetch=data.prefetch,
        ) as loader:
            window = _Window(first=True)
            stopping = False
            while self.step < self.plan.steps and not stopping:
                waited = -time.perf_counter()
                batches = list(itertools.islice(loader, self.plan.micro_steps))
                waited += time.perf_counter()
                assert batches[0].position == self.position + self.world.rank * (
                    self.plan.global_batch // self.plan.world
                )
                lr = lr_at(self.position / self.plan.samples, self.config.optim)
                window.add(waited, *step(batches, lr))
                self.step += 1
                self.log.advance(self.step)
                stopping = self.world.any(bool(flag.name))
                last = stopping or self.step == self.plan.steps
                if self.step % run.log_every == 0 or last:
                    self._record(window, lr, last)
                    window = _Window()
                if self.step % run.save_every == 0 or last:
                    self._save()
        if stopping and self.step < self.plan.steps:
            return "preempted"
        self._finish()
        return "done"

    def _record(self, window: _Window, lr: float, last: bool) -> None:
        loss, norm, skipped = window.read()
        elapsed = time.perf_counter() - window.begun
        rate = window.steps * self.plan.global_batch / elapsed
        peak = peak_flops(self.world.device)
        record: Record = {
            "step": self.step,
            "steps": self.plan.steps,
            "position": self.position,
            "epoch": self.position / self.plan.samples,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm,
            "img_per_s": rate,
            "data_wait_pct": 100 * window.wait_s / elapsed,
            "step_ms": 1000 * elapsed / window.steps,
            "mfu": rate / self.world.size * flops_per_image(self.config) / peak if peak else None,
            "skipped": skipped,
            "window": window.steps,
            "first": window.first,
            "eta_s": (self.plan.steps - self.step) * elapsed / window.steps,
        }
        if skipped == window.steps:
            raise UserError(
                f"loss or gradient was not finite in every one of the last {skipped} steps (up to step "
                f"{self.step}): "
                f"the weights were left as they were; lower --optim.base_lr ({self.config.optim.base_lr:g}) "
                "or look at the data"
            )
        every = self.config.run.eval_every
        if self.heldout is not None and (last or (every and self.step % every == 0)):
            record["heldout_loss"] = heldout_loss(
                self.model, self.heldout, self.config, self.plan.micro_batch, self.world
            )
        self.log.record(record)

    def _save(self) -> None:
        if self.world.main and self.saved != self.step:
            state = checkpoint.State(
                step=self.step,
                position=self.position,
                fingerprint=self.split.manifest.fingerprint,
                config=to_dict(self.config),
                versions=rundir.versions(),
            )
            checkpoint.save(self.folder / "ckpt", self.model, self.optimizer, state, self.config.run.keep)
        self.saved = self.step

    def _status(self, status: str) -> None:
        if self.world.main:
            rundir.set_status(self.folder, status, self.step, self.position)


def rates(records: list[Record]) -> str:
    """img/s and data-wait % over a run, in words; each process's first log line is left out.

    As it holds compilation.
    """
    timed = [r for r in records if not r["first"]] or records
    seconds = [r["step_ms"] * r["window"] / 1000 for r in timed]
    total = sum(seconds)
    images = sum(r["img_per_s"] * s for r, s in zip(timed, seconds, strict=True))
    wait = sum(r["data_wait_pct"] * s for r, s in zip(timed, seconds, strict=True)) / total
    waiting = f"{wait:.1f} % of the time waiting for data"
    return f"{images / total:.0f} img/s, {waiting}, {duration(total)} of training"
