"""Every method at work, small: `python -m turbomim.benchmarks.learning.methods --data SPLIT --out FOLDER`.

One recipe of each family is pre-trained for the same number of steps by `turbomim pretrain`, shrunk until
2 CPU cores manage it; its loss, target, mask and crop stay the recipe's.  Prints a JSON line and a table row
each: img/s, memory, losses.  Draws the loss curves, and what every method sees, must predict and does predict
of one photograph, into methods-loss.png and methods.png.  Losses of different targets do not compare.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import emit, machine
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.encoder.features import load_run
from turbomim.train.folder.log import Record, after_start, read_metrics
from turbomim.train.models.methods import flops_per_image, method_of
from turbomim.train.pictures.grid import Row, write_grid
from turbomim.train.pictures.plot import series, smooth
from turbomim.train.pictures.reconstruction import HEADERS, pick_samples, reconstruct
from turbomim.train.recipes.table import recipe

SIZE: Final = 96
BATCH: Final = 32
LR: Final = 1e-3
LOG_EVERY: Final = 10

# what every run gets, and what shrinks each family; a low-pass of 40 cycles at 224 pixels is 17 at 96; with
# one seed all are drawn on the same sample
COMMON: Final = {
    "run.seed": 0,
    "data.size": SIZE,
    "optim.global_batch": BATCH,
    "optim.micro_batch": 0,
    "optim.min_lr": 0,
    "model.radius": 17.0,
}
DECODER: Final = {"model.decoder_width": 128, "model.decoder_depth": 2, "model.decoder_heads": 4}
ENCODER: Final = {"model.patch": 8, "model.width": 128, "model.depth": 6, "model.heads": 4}
VIT: Final = {**ENCODER, **DECODER}
CONV: Final = {
    "model.width": 192, "model.depth": 4, "model.heads": 4,
    "model.conv_widths": "64,96", "model.conv_depths": "1,1", **DECODER,
}  # fmt: skip
SWIN: Final = {"model.width": 48, "model.heads": 3, "model.stages": "1,1,2,1", "model.window": 6}
FUSE: Final = {"model.fuse": "0,1,2,3,4,5"}

# recipe: the settings that shrink it
FAMILIES: Final[dict[str, dict[str, Any]]] = {
    "mae-vit-b16-800e": VIT,
    "pixmim-vit-b16-800e": VIT,
    "mff-vit-b16-800e": {**VIT, **FUSE},
    "pixmim-mff-vit-b16-800e": {**VIT, **FUSE},
    "lsmae-vit-b16-800e": VIT,
    "lsmae-pixmim-vit-b16-800e": VIT,
    "convmae-b-1600e": CONV,
    "fastconvmae-b-50e": CONV,
    "convmae-pixmim-b-800e": CONV,
    "simmim-vit-b16-800e": {**ENCODER, "model.mask_unit": 4},
    "simmim-swin-b-100e": SWIN,
    "simmim-swinv2-b-800e": {**SWIN, "model.window": 12},
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run that is over: its metrics, one record a log line, and its folder."""

    recipe: str
    folder: Path
    records: list[Record]


def pretrain(name: str, data: Path, out: Path, steps: int, samples: int) -> Run:
    """Pre-train a recipe, shrunk, for so many steps in a process of its own."""
    epochs = steps * BATCH / samples
    settings = {
        **COMMON,
        **FAMILIES[name],
        "data.path": data,
        "optim.epochs": epochs,
        "optim.warmup_epochs": epochs / 10,
        "optim.warmup_start": 0,
        "optim.warmup": "mae",
        # SimMIM's rate is not dropped in so few steps
        "optim.lr_drop_epochs": 2 * epochs,
        "run.folder": out,
        "run.name": name,
        "run.log_every": LOG_EVERY,
        "run.save_every": steps,
    }
    flags = [f"--{key}={value}" for key, value in settings.items()]
    # the rate is the same for all, whatever batch a recipe refers to
    flags.append(f"--optim.base_lr={LR * recipe(name).optim.lr_batch / BATCH}")
    print(f"{name}: {steps} steps", file=sys.stderr, flush=True)
    subprocess.run(
        [sys.executable, "-m", "turbomim", "pretrain", name, *flags], check=True, stdout=subprocess.DEVNULL
    )
    return Run(recipe=name, folder=out / name, records=read_metrics(out / name / "metrics.jsonl"))


def line(run: Run) -> dict[str, Any]:
    """One line of results; the rate is the median after the first log line."""
    config, model, _ = load_run(run.folder)
    losses = series(run.records, "loss")[1].tolist()
    return {
        "name": run.recipe,
        "method": config.model.method,
        "img_per_s": round(statistics.median(record["img_per_s"] for record in after_start(run.records)), 1),
        "memory_gib": round(max(record["memory_gib"] for record in run.records), 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "gflop_per_image": round(flops_per_image(config) / 1e9, 3),
        "target": config.model.target,
        "first_loss": round(losses[0], 4),
        "loss": round(losses[-1], 4),
        **machine(),
    }


def draw_losses(runs: list[Run], path: Path) -> None:
    """One curve a run, each as a share of its first value: the losses themselves do not compare."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    colours = pyplot.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for run, colour in zip(runs, colours, strict=False):
        steps, losses = series(run.records, "loss")
        axes.plot(steps, smooth(losses / losses[0], 3), label=run.recipe, color=colour, linewidth=1.6)
    axes.set(xlabel="optimizer step", ylabel="loss, share of its first value", ylim=(0, 1.05))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_pictures(runs: list[Run], split: Split, path: Path) -> None:
    """One row a method, all of the same photograph."""
    rows: list[Row] = []
    for run in runs:
        config, model, _ = load_run(run.folder)
        # the same sample and crop for every method: a run's own crop differs
        data = dataclasses.replace(config.data, crop="src", interpolation="bicubic")
        (row,) = reconstruct(model, pick_samples(split, dataclasses.replace(config, data=data), 1), config)
        masked = 1 - config.keep / config.patches
        words = (
            f"{run.recipe}: {method_of(config).__name__}, {masked:.0%} masked, {config.model.target} target"
        )
        rows.append(dataclasses.replace(row, caption=words))
    write_grid(
        rows,
        path,
        headers=HEADERS,
        caption="The same photograph by every method after the same few hundred steps of a small model. "
        "Predictions normalised by patch or by window have the true one's mean and variance in the third "
        "column, which are behind the mask, and in the fourth what visible patches tell of them.",
    )


def main() -> None:
    """Pre-train, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="a split to train on, of original photographs"
    )
    parser.add_argument("--heldout", type=Path, help="a split to draw from; --data if not given")
    parser.add_argument("--steps", type=int, default=200, help="of every run")
    parser.add_argument("--recipes", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--out", type=Path, required=True, help="new folder for runs, lines and pictures")
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out {options.out} is not empty: a run that resumes has no first steps")
    if options.steps < 2 * LOG_EVERY:
        parser.error(f"--steps {options.steps}: at least {2 * LOG_EVERY}, as the first {LOG_EVERY} compile")
    options.out.mkdir(parents=True, exist_ok=True)
    samples = open_split(options.data).manifest.samples
    runs = []
    rows: list[tuple[str, ...]] = [("recipe, shrunk", "img/s", "memory, GiB", "MFLOP an image", "loss")]
    for name in options.recipes:
        runs.append(pretrain(name, options.data, options.out, options.steps, samples))
        result = line(runs[-1])
        emit(json.dumps(result), options.out / "methods.jsonl")
        rows.append(
            (
                name,
                f"{result['img_per_s']:,.0f}",
                f"{result['memory_gib']:.2f}",
                f"{1000 * result['gflop_per_image']:,.0f}",
                f"{result['first_loss']:.3f} to {result['loss']:.3f}",
            )
        )
    draw_losses(runs, options.out / "methods-loss.png")
    draw_pictures(runs, open_split(options.heldout or options.data), options.out / "methods.png")
    print(markdown_table(rows, words=2))


if __name__ == "__main__":
    main()
