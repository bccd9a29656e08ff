"""Does the data keep up with the step?  `turbomim bench train --data SHARDS`.

The same compiled step on a synthetic batch that is in memory, and on the loader's, in turn in one process.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Final

import torch

from turbomim.benchmarks.options import BenchStep, BenchTrain
from turbomim.benchmarks.step.bench import configure
from turbomim.benchmarks.step.forms import LR, Task
from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import emit, report
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.loop.data import open_data, open_loader, store_in_words
from turbomim.train.loop.data_wait import DataWait
from turbomim.train.loop.step import Step
from turbomim.train.machine.measurements import machine_name
from turbomim.train.machine.tuned_loader import TUNED_LOADER, rank_speed
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.flags import parse
from turbomim.train.world.distributed import World, join_ranks

SYNTHETIC: Final = "synthetic batch"
REAL: Final = "end to end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Seconds of the steps on the synthetic batch and on the loader's, and of these what they waited."""

    synthetic: float
    real: float
    wait: float


def bench_train_command(argv: list[str]) -> None:
    """`turbomim bench train …`: JSON lines, then a table.  Raises UserError."""
    options = parse(BenchTrain, argv, "turbomim bench train")
    if options.rounds < 2 or options.steps < 1 or options.batch < 0:
        raise UsageError(
            f"--rounds {options.rounds} --steps {options.steps} --batch {options.batch}: "
            "at least 2 rounds, 1 step and 1 image"
        )
    with join_ranks(options.device) as world:
        on_gpu = world.device.type == "cuda"
        batch = options.batch or (256 if on_gpu else 16)
        name = options.recipe or ("vit-base" if on_gpu else "vit-tiny")
        config = settings(options, name)
        rounds, store = measure(config, batch, options, world)
    images = batch * options.steps
    wait = statistics.median(100 * each.wait / each.real for each in rounds)
    seconds = {SYNTHETIC: [each.synthetic for each in rounds], REAL: [each.real for each in rounds]}
    rows = [("training", "img/s", f"of the {SYNTHETIC}'s", "waiting for data")]
    for form, measured in seconds.items():
        speed = images / statistics.median(measured)
        share = statistics.median(s / m for s, m in zip(seconds[SYNTHETIC], measured, strict=True))
        waited = wait if form == REAL else 0.0
        facts = {"img_per_s": round(speed, 2), "data_wait_pct": round(waited, 3), "batch": batch}
        line = report(
            f"train, {name}: {form}",
            measured,
            images,
            seconds[SYNTHETIC],
            ratio_to_synthetic=round(share, 4),
            data=store,
            **facts,
        )
        emit(line, options.out)
        rows.append((f"{name}: {form}", f"{speed:,.1f}", f"{share:.3f}", f"{waited:.2f} %"))
    print(f"{markdown_table(rows, words=2)}\n\n{store}")


def settings(options: BenchTrain, name: str) -> Config:
    """The recipe's, or those of a model of `bench step`, with the data of the command."""
    config = recipe(name) if options.recipe else configure(name, BenchStep())
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=options.data),
        step=dataclasses.replace(config.step, device=options.device),
    )


def measure(config: Config, batch: int, options: BenchTrain, world: World) -> tuple[list[Round], str]:
    """Both, round by round, after the compilation; and how the photographs are stored."""
    split = open_data(config.data.path, "--data", config.data, world)
    speed = rank_speed(config.data, TUNED_LOADER.read(machine_name(world.device)), world.local_size)
    model = make_model(config).to(world.device)
    optimizer, clip = make_optimizer(model, config.optim), config.optim.clip_grad
    step = Step(model, optimizer, config.step, world, micro_steps=1, clip_grad=clip)
    synthetic = Task(config=config, batch=batch, device=world.device.type).make_batch()
    with open_loader(
        config,
        split,
        BatchCut(global_batch=batch, micro_batch=batch),
        speed,
        device=world.device.type,
        notify=lambda line: print(line, file=sys.stderr, flush=True),
    ) as loader:
        # compiles
        timed_steps(step, synthetic, 2)
        rounds = []
        for _ in range(options.rounds):
            alone = timed_steps(step, synthetic, options.steps)
            # what was read and decoded during the turn of the other is no measure
            timed_steps(step, loader, 2 * speed.prefetch)
            real, wait = timed_steps(step, loader, options.steps)
            rounds.append(Round(synthetic=alone[0], real=real, wait=wait))
    return rounds, store_in_words(config.data, split)


def timed_steps(step: Step, source: Batch | Loader, steps: int) -> tuple[float, float]:
    """Seconds of steps, and how many of these they waited for their batches."""
    wait = DataWait(step.world.device)
    begun = time.perf_counter()
    for _ in range(steps):
        with wait.measured():
            batch = source if isinstance(source, Batch) else next(source)
        step([batch], LR)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun, wait.seconds()


if __name__ == "__main__":
    bench_train_command(sys.argv[1:])
