"""Does a compiled step learn the same?  `python -m turbomim.benchmarks.learning.compiled --data … --out …`.

A small masked autoencoder is trained three times with each of --seeds: compiled, eager, and eager again, by
the real step on the real stream.  The difference of two loss curves is shown beside the difference that
another seed makes.  A point of a curve is the mean of a hundredth of the steps.  Prints JSON lines and a
table, draws a plot.  The same command again goes on: what --out has results of is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from turbomim.benchmarks.learning.results import Line, begin, keep
from turbomim.benchmarks.learning.textbook import loader_of
from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.loop.step import Step
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.schedule import lr_of_step
from turbomim.train.world.distributed import World

KIND: Final = "compiled"
COMPILED: Final = "compiled"
EAGER: Final = "eager"
AGAIN: Final = "eager again"
# of a curve
POINTS: Final = 100
# rows of the table
PARTS: Final = 5
BATCH: Final = 32


def small_mae(data: Path, steps: int, seed: int) -> Config:
    """A ViT of 64x3 on 32 pixels: some 10 ms a step of one core.  A tenth of the steps is warm-up."""
    base = recipe("cifar10-vit-t4")
    epochs = steps * BATCH / open_split(data).manifest.samples
    return replace(
        base,
        data=replace(base.data, path=str(data)),
        model=replace(
            base.model, width=64, depth=3, heads=2, decoder_width=48, decoder_depth=1, decoder_heads=2
        ),
        optim=replace(
            base.optim, epochs=epochs, warmup_epochs=0.1 * epochs, base_lr=8e-3, global_batch=BATCH
        ),
        step=replace(base.step, device="cpu", precision="float32"),
        run=replace(base.run, seed=seed),
    )


def train(config: Config, split: Split, steps: int, *, compiled: bool) -> tuple[list[float], MAE]:
    """The loss of every step from the start of the stream, and the model after the last."""
    # what one run compiled is no part of the next
    torch.compiler.reset()
    step_settings = replace(config.step, compile=compiled)
    model, world = make_model(config), World(device=torch.device("cpu"))
    clip = config.optim.clip_grad
    optimizer = make_optimizer(model, config.optim)
    step = Step(model, optimizer, step_settings, world, micro_steps=1, clip_grad=clip)
    losses = []
    with loader_of(config, split) as loader:
        for number in range(steps):
            lr = lr_of_step(number, split.manifest.samples, config.optim)
            losses.append(step([next(loader)], lr)[0].item())
    return losses, model


def digest(losses: Sequence[float], model: MAE) -> str:
    """Of all losses and of the last weights: two runs are equal bit for bit if theirs are."""
    found = hashlib.sha256(json.dumps(losses).encode())
    for value in model.state_dict().values():
        found.update(value.numpy().tobytes())
    return found.hexdigest()[:16]


def curve(losses: Sequence[float], points: int = POINTS) -> list[float]:
    """Means of as many equal parts of the steps."""
    size = len(losses) // points
    return [statistics.fmean(losses[at : at + size]) for at in range(0, size * points, size)]


def gaps(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """How far two curves are apart at each point."""
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


def by_run(lines: list[Line]) -> dict[tuple[str, int], Line]:
    """Lines by name and seed."""
    return {(line["name"], line["seed"]): line for line in lines}


def of_pairs(lines: list[Line], seeds: list[int]) -> tuple[list[list[float]], list[list[float]]]:
    """Gaps between compiled and eager, one a seed, and between eager runs of two seeds, one a pair."""
    curves = {run: line["losses"] for run, line in by_run(lines).items()}
    forms = [gaps(curves[COMPILED, seed], curves[EAGER, seed]) for seed in seeds]
    pairs = itertools.combinations(seeds, 2)
    return forms, [gaps(curves[EAGER, one], curves[EAGER, other]) for one, other in pairs]


def table(lines: list[Line], seeds: list[int]) -> str:
    """Gaps in parts of the run, their means over points and runs, and whether eager runs are the same."""
    forms, pairs = of_pairs(lines, seeds)
    found = by_run(lines)
    rows: list[tuple[str, ...]] = [
        ("steps", "loss, eager", "compiled and eager differ by", "two seeds differ by", "ratio")
    ]
    steps = lines[0]["steps"]
    for first in range(0, POINTS, POINTS // PARTS):
        last = first + POINTS // PARTS
        loss, form, pair = (
            statistics.fmean(value for each in some for value in each[first:last]) if some else math.nan
            for some in ([found[EAGER, seed]["losses"] for seed in seeds], forms, pairs)
        )
        of_steps = f"{steps * first // POINTS + 1:,} to {steps * last // POINTS:,}"
        rows.append((of_steps, f"{loss:.4f}", f"{form:.2g}", f"{pair:.2g}", f"{form / pair:.2g}"))
    text = [markdown_table(rows, words=1), ""]
    for seed in seeds:
        same = found[EAGER, seed]["digest"] == found[AGAIN, seed]["digest"]
        compiled, eager = (
            statistics.fmean(found[name, seed]["losses"][-POINTS // PARTS :]) for name in (COMPILED, EAGER)
        )
        text.append(
            f"seed {seed}: two eager runs are {'equal bit for bit' if same else 'NOT EQUAL'}; "
            f"mean loss of the last fifth: {compiled:.6f} compiled, {eager:.6f} eager"
        )
    return "\n".join(text)


def plot(lines: list[Line], seeds: list[int], path: Path) -> None:
    """Curves of all runs, and how far they are apart."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found, steps = by_run(lines), lines[0]["steps"]
    at = [steps * (point + 0.5) / POINTS for point in range(POINTS)]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for place, seed in enumerate(seeds):
        left.plot(at, found[EAGER, seed]["losses"], color=f"C{place}", lw=1, label=f"seed {seed}, eager")
    for seed in seeds:
        label = "the same seeds, compiled" if seed == seeds[-1] else None
        left.plot(at, found[COMPILED, seed]["losses"], color="black", ls=":", lw=1.2, label=label)
    left.set(xlabel="steps", ylabel="masked-patch loss", title=f"a mean of {steps // POINTS} steps a point")
    forms, pairs = of_pairs(lines, seeds)
    same = all(found[EAGER, seed]["digest"] == found[AGAIN, seed]["digest"] for seed in seeds)
    for some, color, label in (
        (pairs, "C1", "two seeds, both eager"),
        (forms, "C0", "compiled and eager, one seed"),
    ):
        for number, each in enumerate(some):
            right.plot(at, each, color=color, lw=1, label=None if number else label)
    if same:
        right.plot([], [], " ", label="eager and eager again, one seed: 0")
    right.set_yscale("log", nonpositive="mask")
    right.set(xlabel="steps", ylabel="difference of the losses", title="how far two runs are apart")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def run_all(options: argparse.Namespace) -> list[Line]:
    """Lines of every form with every seed; each is kept as soon as it is there.

    Raises UserError if --out is of other settings.
    """
    lines = begin(options.out, {"data": str(options.data), "steps": options.steps}, KIND)
    split = open_split(options.data)
    for seed, name in itertools.product(options.seeds, (COMPILED, EAGER, AGAIN)):
        if (name, seed) in by_run(lines):
            print(f"{name}, seed {seed}: {options.out} has it", file=sys.stderr, flush=True)
            continue
        config = small_mae(options.data, options.steps, seed)
        begun = time.perf_counter()
        losses, model = train(config, split, options.steps, compiled=name == COMPILED)
        facts: dict[str, Any] = {"name": name, "seed": seed, "steps": options.steps, "batch": BATCH}
        seconds = round(time.perf_counter() - begun, 1)
        # seven digits are a float32's
        points = [float(f"{value:.8g}") for value in curve(losses)]
        facts |= {"seconds": seconds, "digest": digest(losses, model), "losses": points}
        lines.append({**facts, **machine()})
        keep(lines, options.out, KIND)
        print(json.dumps(lines[-1]), flush=True)
    return lines


def main() -> None:
    """Train, print, plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="shards of 32 pixels, stored raw")
    parser.add_argument("--steps", type=int, default=5000, help=f"of each run, a multiple of {POINTS}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="three runs with each")
    parser.add_argument("--out", type=Path, required=True, help="folder for lines and plot")
    options = parser.parse_args()
    if options.steps < POINTS or options.steps % POINTS:
        parser.error(f"--steps {options.steps}: must be a multiple of {POINTS}, the points of a curve")
    try:
        lines = run_all(options)
    except UserError as error:
        parser.error(str(error))
    plot(lines, options.seeds, options.out / "compiled.png")
    print(table(lines, options.seeds))


if __name__ == "__main__":
    main()
