"""What does a model learn in so many minutes?  `python -m turbomim.benchmarks.learning --train … --test …`.

Each recipe is pre-trained by `turbomim pretrain` for a fixed time by the clock, start-up and compilation
included: a short trial run measures both and the rate of steps, and the epochs are set so that the cosine
ends with the time.  Then neighbours and the linear probe score the trained encoder, the same encoder with
random weights, and raw pixels.  With --textbook a plain eager MAE gets the first recipe's data, model, batch,
learning rate and minutes.  Prints JSON lines and a table, draws a plot.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from turbomim.benchmarks.learning_textbook import train_textbook
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.errors import UserError
from turbomim.pipeline.shards import open_split
from turbomim.train.cli import parse_config
from turbomim.train.config import Config
from turbomim.train.eval_command import MEASURES, Eval, Scores, evaluate_model
from turbomim.train.features import load_run
from turbomim.train.log import Record, read_metrics
from turbomim.train.models.mae import MAE

# images of the trial: enough for a rate, few enough not to matter
TRIAL_IMAGES = 15_360
LOG_EVERY = 10
# what the plot and the table show of the trained encoder
SHOWN = "mean of patch tokens"
TRAINED, RANDOM, PIXELS = f"trained: {SHOWN}", f"random weights: {SHOWN}", "raw pixels"
MEASURED = ("20 neighbours", "weighted", "linear probe")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What a trial run showed: seconds before and after its steps, and images a second in between."""

    around_s: float
    img_per_s: float

    def epochs(self, seconds: float, samples: int) -> float:
        """Passes over the samples that end with the time, start-up included."""
        return (seconds - self.around_s) * self.img_per_s / samples


def settings(name: str, options: argparse.Namespace) -> tuple[list[str], Config]:
    """A recipe with the flags that all runs get, as words for `turbomim pretrain` and as a Config."""
    words = [name, "--data.path", str(options.train), *(f"--{setting}" for setting in options.set)]
    return words, parse_config(words)[0]


def pretrain(words: list[str], config: Config, folder: Path, epochs: float) -> tuple[float, list[Record]]:
    """Run `turbomim pretrain` in a process of its own; seconds by the clock, and its metrics.

    Warm-up keeps its share of the run.  Nothing that was compiled before is used again.
    """
    warmup_epochs = epochs * config.optim.warmup_epochs / config.optim.epochs
    command = [
        *(sys.executable, "-m", "turbomim", "pretrain", *words),
        *("--run.folder", str(folder.parent), "--run.name", folder.name),
        *("--optim.epochs", str(epochs), "--optim.warmup_epochs", str(warmup_epochs)),
        *("--run.log_every", str(LOG_EVERY), "--run.save_every", "1000000"),
    ]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    folder.mkdir(parents=True)
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
    begun = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=sys.stderr)
    return time.perf_counter() - begun, read_metrics(folder / "metrics.jsonl")


def trial(words: list[str], config: Config, folder: Path, samples: int) -> Speed:
    """How long a run takes to start and to end, and its rate once it runs."""
    batch = config.optim.global_batch
    seconds, records = pretrain(words, config, folder, TRIAL_IMAGES / samples)
    timed = [r for r in records if not r["first"]]
    rate = sum(r["window"] for r in timed) * batch / sum(r["window"] * r["step_ms"] / 1000 for r in timed)
    return Speed(around_s=seconds - records[-1]["position"] / rate, img_per_s=rate)


def learn(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Pre-train a recipe for the minutes and score it: one line of results."""
    words, config = settings(name, options)
    samples = open_split(options.train).manifest.samples
    speed = trial(words, config, options.out / f"{name}-trial", samples)
    folder = options.out / name
    budget = 60 * options.minutes
    if speed.around_s > 0.8 * budget:
        raise UserError(
            f"{name}: starting and ending alone take {speed.around_s:.0f} s of {budget:.0f} s: "
            "give more --minutes"
        )
    epochs = speed.epochs(budget, samples)
    seconds, records = pretrain(words, config, folder, epochs)
    last = records[-1]
    losses = [[r["position"], round(r["loss"], 4)] for r in records if r["loss"] is not None]
    return {
        "name": name,
        "settings": options.set,
        "minutes": round(seconds / 60, 2),
        "start_and_end_s": round(speed.around_s, 1),
        "steps": last["step"],
        "images": last["position"],
        "img_per_s": round(last["position"] / seconds, 1),
        "img_per_s_stepping": round(statistics.median(r["img_per_s"] for r in records if not r["first"]), 1),
        "data_wait_pct": round(statistics.median(r["data_wait_pct"] for r in records if not r["first"]), 2),
        "loss": losses[-1][1],
        "losses": losses,
        **scored(load_run(folder)[1], config, options),
    }


def learn_textbook(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The same for a plain eager MAE with a recipe's settings."""
    _, config = settings(name, options)
    begun = time.perf_counter()
    model, losses = train_textbook(config, seconds=60 * options.minutes)
    seconds = time.perf_counter() - begun
    images = int(losses[-1][0])
    return {
        "name": f"textbook, eager: {name}",
        "minutes": round(seconds / 60, 2),
        "steps": images // config.optim.global_batch,
        "images": images,
        "img_per_s": round(images / seconds, 1),
        "loss": losses[-1][1],
        "losses": losses,
        **scored(model, config, options),
    }


def scored(model: MAE, config: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of a model by every measure, and what they were measured on."""
    wanted = Eval(run=options.out, train=options.train, test=options.test, samples=options.samples)
    result = evaluate_model(model, config, wanted, MEASURES)
    return {key: result[key] for key in ("encoder", "train_samples", "test_samples", "scores")}


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown: images seen, and scores in % of the trained encoder and of both baselines."""
    first: Scores = lines[0]["scores"]
    rows = [
        (PIXELS, "", "", *(first[PIXELS][m] for m in MEASURED)),
        ("random weights", "", "", *(first[RANDOM][m] for m in MEASURED)),
        *(
            (
                line["name"],
                f"{line['images']:,}",
                f"{line['minutes']:.1f}",
                *(line["scores"][TRAINED][m] for m in MEASURED),
            )
            for line in lines
        ),
    ]
    text = [
        f"| features ({SHOWN}) | images seen | minutes | {' | '.join(MEASURED)} |",
        f"|---|{'---:|' * (2 + len(MEASURED))}",
    ]
    for name, images, minutes, *scores in rows:
        cells = " | ".join(f"{100 * float(value):.1f}" for value in scores)
        text.append(f"| {name} | {images} | {minutes} | {cells} |")
    return "\n".join(text)


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Losses over images seen, and accuracies before and after."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for line in lines:
        positions, losses = zip(*line["losses"], strict=True)
        left.plot([p / 1000 for p in positions], losses, label=line["name"])
    left.set(xlabel="thousand images seen", ylabel="masked-patch loss", title="pre-training")
    left.legend(fontsize="small")
    names = [PIXELS, "random weights", *(line["name"] for line in lines)]
    scores = [
        lines[0]["scores"][PIXELS],
        lines[0]["scores"][RANDOM],
        *(line["scores"][TRAINED] for line in lines),
    ]
    shown = ("20 neighbours", "linear probe")
    for place, measure in enumerate(shown):
        at = [n + 0.4 * (place - 0.5) for n in range(len(names))]
        bars = right.barh(at, [100 * s[measure] for s in scores], height=0.38, label=measure)
        right.bar_label(bars, fmt="%.1f", padding=2, fontsize="small")
    right.set_yticks(range(len(names)), names, fontsize="small")
    right.invert_yaxis()
    right.set(xlabel="% of test images correct", title=f"frozen features, {SHOWN}")
    right.margins(x=0.12)
    right.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> None:
    """Pre-train, score, print, plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="labelled shards to learn from")
    parser.add_argument("--test", type=Path, required=True, help="labelled shards that are scored")
    parser.add_argument("--minutes", type=float, default=15.0, help="of pre-training, each recipe")
    parser.add_argument("--recipes", nargs="+", default=["cifar10-vit-t4", "cifar10-pixmim-vit-t4"])
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every run, step.precision=…"
    )
    parser.add_argument("--samples", type=int, default=10_000, help="train images of both measures; 0 = all")
    parser.add_argument(
        "--textbook", action="store_true", help="a plain eager MAE with the first recipe, too"
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for runs, lines and plot")
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out {options.out} is not empty: a run that resumes cannot be timed")
    lines = []
    try:
        for name in options.recipes:
            lines.append(learn(name, options))
            keep(lines[-1], options.out)
        if options.textbook:
            lines.append(learn_textbook(options.recipes[0], options))
            keep(lines[-1], options.out)
    except UserError as error:
        parser.error(str(error))
    plot(lines, options.out / "learning.png")
    print(table(lines))


def keep(line: dict[str, Any], out: Path) -> None:
    """Print a line of results and add it to learning.jsonl."""
    text = json.dumps({**line, **machine()})
    print(text, flush=True)
    with open(out / "learning.jsonl", "a", encoding="utf-8") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    main()
