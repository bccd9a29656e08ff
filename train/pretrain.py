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
from turbomim.pipeline.loader import Batch, Loader
from turbomim.pipeline.shards import Split, open_split
from turbomim.train import checkpoint, rundir
from turbomim.train.config import Config, to_dict
from turbomim.train.distributed import World, cores, start
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
from turbomim.train.window import Window

# steps in a row that may be skipped as not finite before the run ends
MOST_SKIPPED = 10


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
        split = _open(config.data.path, world)
        heldout = _open(config.data.heldout, world) if config.data.heldout else None
        plan = make_plan(config, split.manifest.samples, world.size)
        if dry_run:
            return _dry_run(config, plan, world, console)
        folder = rundir.run_folder(config)
        with contextlib.ExitStack() as held:
            found, damaged = world.from_main(lambda: _prepare(folder, config, split, held))
            run = _Run(config, plan, split, heldout, world, console)
            return run.go(found, damaged)


def _open(path: str, world: World) -> Split:
    """The split, checked by the main rank first, so that changed shards are hashed once."""
    if not path:
        raise UserError(
            "data.path is empty: give the folder that `turbomim shard make` wrote, --data.path FOLDER"
        )
    opened: list[Split] = []
    world.from_main(lambda: opened.append(open_split(path)))
    return opened[0] if opened else open_split(path)


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


def _dry_run(config: Config, plan: Plan, world: World, console: Console) -> Outcome:
    count = sum(p.numel() for p in MAE(config).parameters())
    if world.main:
        text = (
            f"{yaml.safe_dump(to_dict(config), sort_keys=False)}{plan.equation(config)}\n"
            f"{count:,} parameters, {flops_per_image(config) / 1e9:.1f} GFLOP an image, "
            f"device {world.device}; dry run: nothing was trained"
        )
        console.print(text, highlight=False, markup=False, soft_wrap=True)
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

    @property
    def position(self) -> int:
        return self.step * self.plan.global_batch

    def go(self, found: str | None, damaged: list[str]) -> Outcome:
        """Train from a checkpoint, or from the start, to the end or a signal."""
        if found is not None:
            checkpoint.load(Path(found), self.model, self.optimizer)
            self.step = checkpoint.read_state(Path(found)).step
        with self.log.open(self.step):
            for path in damaged:
                self.log.say(f"{path} is damaged and was passed over")
            if self.step >= self.plan.steps:
                self.log.say(f"{self.folder} is done: {self.step} of {self.plan.steps} steps; nothing to do")
                return self._finish()
            if self.world.main:
                rundir.describe(self.folder, self.config, self.world.device, self.world.size)
            self._say_what(found)
            self._status("running")
            try:
                return self._train()
            except BaseException:
                # on a full disk this fails too, and the first error is the one to show
                with contextlib.suppress(UserError):
                    self._status("failed")
                raise

    def _say_what(self, found: str | None) -> None:
        sections = to_dict(self.config)
        for name, section in sections.items():
            self.log.say(f"{name}: " + ", ".join(f"{key} {value}" for key, value in section.items()))
        self.log.say(self.plan.equation(self.config))
        self.log.say(
            f"{self.split.manifest.samples} samples in {len(self.split.manifest.shards)} shards, "
            f"device {self.world.device}, {f'resumed from {found}' if found else 'a new run'}: "
            f"step {self.step} of {self.plan.steps}"
        )

    def _train(self) -> Outcome:
        data = self.config.data
        step = Step(self.model, self.optimizer, self.config.step, self.world, self.plan.micro_steps)
        with (
            Loader(
                self.split,
                size=data.size,
                crop=data.crop,
                scale=data.rrc_scale,
                interpolation=data.interpolation,
                seed=self.config.run.seed,
                global_batch=self.plan.global_batch,
                micro_batch=self.plan.micro_batch,
                rank=self.world.rank,
                world=self.world.size,
                start=self.position,
                device=self.world.device.type,
                threads=data.threads or cores(),
                readers=data.readers,
                prefetch=data.prefetch,
            ) as loader,
            self.log.bar(self.step, self.plan.steps),
            stop_flag() as flag,
        ):
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
            batches = list(itertools.islice(loader, self.plan.micro_steps))
            waited += time.perf_counter()
            assert batches[0].position == self.position + self.world.rank * self.plan.local_batch
            lr = lr_at(self.position / self.plan.samples, self.config.optim)
            window.add(waited, *self._step(step, batches, lr))
            self.step += 1
            self.log.advance(self.step)
            stopping = self.world.any(bool(flag.name))
            end = self.step == self.plan.steps
            if self.step % run.log_every == 0 or stopping or end:
                record = window.record(self.step, lr)
                if end or (run.eval_every and self.step % run.eval_every == 0 and not stopping):
                    record["heldout_loss"] = self._heldout_loss()
                self.log.record(record)
                self._check_skipped(record["skipped_in_a_row"])
                window = window.next()
            if self.step % run.save_every == 0 or stopping or end:
                self._save()
            if stopping:
                return not end
        return False

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
        return heldout_loss(self.model, self.heldout, self.config, self.plan.micro_batch, self.world)

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
