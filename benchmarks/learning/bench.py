"""What does a model learn?  `python -m turbomim.benchmarks.learning.bench --train … --test … --out FOLDER`.

Each recipe is pre-trained by `turbomim pretrain`, once for each of --seeds: on so many --images, or for so
many --minutes by the clock, start-up and compilation included (a short trial run measures both and the rate
of steps, and the epochs are set so that the cosine ends with the time).  Then neighbours and the linear probe
score the trained encoder, the same encoder with random weights, and raw pixels.  With --textbook a plain
eager MAE gets the first recipe's data, model, batch, learning rate and minutes.  Prints JSON lines and a
table, draws a plot.  The same command again goes on: what --out has results of is not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from turbomim.benchmarks.learning.effects import effects_table
from turbomim.benchmarks.learning.results import Line, begin, keep, plot, table
from turbomim.benchmarks.learning.textbook import train_textbook
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split
from turbomim.train.encoder.features import PIXELS, load_run
from turbomim.train.evaluate.results import Scores
from turbomim.train.evaluate.scores import MEASURES, evaluate_model
from turbomim.train.evaluate.scoring import Scoring
from turbomim.train.folder.log import Record, after_start, read_metrics, seconds_of
from turbomim.train.models.mae import MAE
from turbomim.train.recipes.command_line import parse_config
from turbomim.train.settings.config import Config

# images of the trial: enough for a rate, few enough not to matter
TRIAL_IMAGES = 15_360
LOG_EVERY = 10
# steps between checkpoints of a run that may resume
SAVE_EVERY = 200
# docs/learning.md has why: few passes have no use for what is made for a hundred
FINETUNE = (
    *("--batch", "128", "--base-lr", "2e-3", "--data.rrc_scale", "0.4", "--finetune.layer_decay", "0.8"),
    *("--finetune.mixup", "0", "--finetune.cutmix", "0", "--finetune.erase", "0"),
    *("--finetune.rand_augment", ""),
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What a trial run showed: seconds before and after its steps, and images a second in between."""

    around_s: float
    img_per_s: float

    def epochs(self, seconds: float, samples: int) -> float:
        """Passes over the samples that end with the time, start-up included."""
        return (seconds - self.around_s) * self.img_per_s / samples


def settings(arm: str, seed: int, options: argparse.Namespace) -> tuple[list[str], Config]:
    """An arm with the flags that all runs get, as words for `turbomim pretrain` and as a Config.

    An arm is a recipe, with settings of its own behind colons: NAME:model.target=ideal:model.radius=6.
    """
    name, *own = arm.split(":")
    given = (f"--{setting}" for setting in (*options.set, *own))
    words = [name, "--data.path", str(options.train), *given, "--run.seed", str(seed)]
    return words, parse_config(words)[0]


def lasting(config: Config, epochs: float) -> list[str]:
    """Words that make a run as long as so many epochs; warm-up keeps its share of the run."""
    warmup_epochs = epochs * config.optim.warmup_epochs / config.optim.epochs
    return ["--optim.epochs", str(epochs), "--optim.warmup_epochs", str(warmup_epochs)]


def run_folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    """Of the run of an arm with a seed, in --out: its name is what a run may be called."""
    return Path(options.out, "runs", f"{re.sub('[^A-Za-z0-9._-]', '-', arm)}-seed{seed}")


def pretrain(words: list[str], folder: Path, *, timed: bool = True) -> tuple[float, list[Record]]:
    """Run `turbomim pretrain` in a process of its own; seconds by the clock, and its metrics.

    If it is timed, nothing that was compiled before is used again, and a run that was cut short begins anew;
    else such a run resumes.  Raises UserError if it does not reach its end.
    """
    command = [
        *("pretrain", *words, "--run.folder", str(folder.parent), "--run.name", folder.name),
        *("--run.log_every", str(LOG_EVERY), "--run.save_every", "1000000" if timed else str(SAVE_EVERY)),
    ]
    if folder.exists() and timed:
        print(f"{folder} was cut short: it begins anew", file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    code = run(command, compiled=(folder if timed else folder.parent) / "compiled")
    seconds = time.perf_counter() - begun
    records = read_metrics(folder / "metrics.jsonl")
    # a run that was asked to stop ends well, too
    if code or not records or records[-1]["step"] < records[-1]["steps"]:
        raise UserError(f"{folder} did not reach its end (exit code {code}): see above, then run this again")
    return seconds, records


def finetune(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune a run by `turbomim eval finetune`, or go on with it: epochs, and shares of test images.

    The step's settings are the run's.  Raises UserError if it does not reach its end.
    """
    splits = ("--train", str(options.train), "--test", str(options.test))
    length = ("--epochs", str(options.finetune), "--run.seed", str(seed), "--run.save_every", str(SAVE_EVERY))
    command = ["eval", "finetune", str(folder), *splits, *length, *FINETUNE]
    code = run(command, compiled=folder.parent / "compiled")
    result = folder / "eval" / "finetune" / "result.json"
    # a fine-tuning that was asked to stop ends well, too, and has no result
    if code or not result.exists():
        raise UserError(f"{result.parent} did not reach its end (exit code {code}): run this again")
    found = json.loads(result.read_text(encoding="utf-8"))
    return {"epochs": options.finetune, "top1": found["top1"], "top5": found.get("top5")}


def run(command: list[str], *, compiled: Path) -> int:
    """Run a command of `turbomim`, with a cache of what is compiled; its exit code."""
    print(shlex.join(("turbomim", *command)), file=sys.stderr, flush=True)
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(compiled)}
    words = (sys.executable, "-m", "turbomim", *command)
    return subprocess.run(words, check=False, env=env, stdout=sys.stderr).returncode


def trial(words: list[str], config: Config, folder: Path, samples: int) -> Speed:
    """How long a run takes to start and to end, and its rate once it runs."""
    batch = config.optim.global_batch
    seconds, records = pretrain([*words, *lasting(config, TRIAL_IMAGES / samples)], folder)
    timed = after_start(records)
    rate = sum(r["window"] for r in timed) * batch / sum(seconds_of(r) for r in timed)
    return Speed(around_s=seconds - records[-1]["position"] / rate, img_per_s=rate)


def epochs_in_time(
    words: list[str], config: Config, folder: Path, minutes: float, samples: int
) -> tuple[float, Speed]:
    """Epochs that end with the time, and the trial they come from.  Raises UserError if there are none."""
    speed = trial(words, config, folder, samples)
    budget = 60 * minutes
    if speed.around_s > 0.8 * budget:
        raise UserError(
            f"{words[0]}: starting and ending alone take {speed.around_s:.0f} s of {budget:.0f} s: "
            "give more --minutes, or --images"
        )
    return speed.epochs(budget, samples), speed


def learn(name: str, seed: int, options: argparse.Namespace, known: Scores) -> Line:
    """Pre-train a recipe with a seed, for the images or the minutes, and score it: one line of results."""
    words, config = settings(name, seed, options)
    samples = open_split(options.train).manifest.samples
    folder = run_folder(name, seed, options)
    resumed, timing = folder.exists() and options.images is not None, dict[str, Any]()
    if options.images is not None:
        # half an image less: rounding must not add a step
        epochs = (options.images - 0.5) / samples
    else:
        beside = folder.with_name(f"{folder.name}-trial")
        epochs, speed = epochs_in_time(words, config, beside, options.minutes, samples)
        timing["start_and_end_s"] = round(speed.around_s, 1)
    seconds, records = pretrain([*words, *lasting(config, epochs)], folder, timed=options.images is None)
    line = {
        **about_run(name, seed, options, seconds, records),
        **timing,
        **scored(load_run(folder)[1], config, options, known),
        **({"finetune": finetune(folder, seed, options)} if options.finetune else {}),
    }
    if resumed:
        # of the whole run nobody knows them
        del line["minutes"], line["img_per_s"]
    return line


def about_run(
    name: str, seed: int, options: argparse.Namespace, seconds: float, records: list[Record]
) -> Line:
    """What a line says of a run that is over, but for its scores."""
    last = records[-1]
    timed = after_start(records)
    losses = [[r["position"], round(r["loss"], 4)] for r in records if r["loss"] is not None]
    return {
        "name": name,
        "seed": seed,
        "settings": options.set,
        "minutes": round(seconds / 60, 2),
        "steps": last["step"],
        "images": last["position"],
        "img_per_s": round(last["position"] / seconds, 1),
        "img_per_s_stepping": round(statistics.median(r["img_per_s"] for r in timed), 1),
        "data_wait_pct": round(statistics.median(r["data_wait_pct"] for r in timed), 2),
        "loss": losses[-1][1],
        "losses": losses,
    }


def learn_textbook(name: str, seed: int, options: argparse.Namespace, known: Scores) -> Line:
    """The same for a plain eager MAE with a recipe's settings."""
    _, config = settings(name, seed, options)
    begun = time.perf_counter()
    model, losses = train_textbook(config, seconds=60 * options.minutes)
    seconds = time.perf_counter() - begun
    images = int(losses[-1][0])
    return {
        "name": textbook_name(name),
        "seed": seed,
        "minutes": round(seconds / 60, 2),
        "steps": images // config.optim.global_batch,
        "images": images,
        "img_per_s": round(images / seconds, 1),
        "loss": losses[-1][1],
        "losses": losses,
        **scored(model, config, options, known),
    }


def textbook_name(name: str) -> str:
    """What the textbook's line of a recipe is called."""
    return f"textbook, eager: {name}"


def scored(model: MAE, config: Config, options: argparse.Namespace, known: Scores) -> dict[str, Any]:
    """Scores of a model by every measure but of features that are known, and what they were measured on."""
    on = Scoring(train=options.train, test=options.test, samples=options.samples)
    result = evaluate_model(model, config, MEASURES, on, known)
    return {key: result[key] for key in ("encoder", "train_samples", "test_samples", "scores")}


def run_all(options: argparse.Namespace) -> list[Line]:
    """Lines of every recipe with every seed; each is kept as soon as it is there.

    Raises UserError if --out is not of these settings, or a run fails.
    """
    asked = {key: getattr(options, key) for key in ("images", "minutes", "samples", "set")}
    asked |= {"train": str(options.train), "test": str(options.test)}
    if options.finetune:
        asked["finetune"] = options.finetune
    lines = begin(options.out, asked)
    for seed in options.seeds:
        wanted = [(name, learn, name) for name in options.recipes]
        if options.textbook:
            wanted.append((textbook_name(options.recipes[0]), learn_textbook, options.recipes[0]))
        for title, function, name in wanted:
            if any((line["name"], line["seed"]) == (title, seed) for line in lines):
                print(f"{title}, seed {seed}: {options.out} has it", file=sys.stderr, flush=True)
                continue
            # pixels are the same for every recipe and seed, and the dearest to score
            known = {PIXELS: lines[0]["scores"][PIXELS]} if lines else {}
            lines.append({**function(name, seed, options, known), **machine()})
            keep(lines, options.out)
            print(json.dumps(lines[-1]), flush=True)
    # what is shown is in the order asked for, whatever came first
    order = {title: place for place, (title, *_) in enumerate(wanted)}
    return sorted(
        (line for line in lines if line["name"] in order and line["seed"] in options.seeds),
        key=lambda line: order[line["name"]],
    )


def main() -> None:
    """Pre-train, score, print, plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="labelled shards to learn from")
    parser.add_argument("--test", type=Path, required=True, help="labelled shards that are scored")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=15.0, help="of pre-training, each run")
    length.add_argument("--images", type=int, help="of pre-training, each run, in place of minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="each recipe runs once with each")
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=["cifar10-vit-t4", "cifar10-pixmim-vit-t4"],
        metavar="NAME[:KEY=VALUE…]",
        help="with settings of its own behind colons, cifar10-pixmim-vit-t4:model.target=ideal; "
        "the others are compared with the first",
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of every run, step.precision=…"
    )
    parser.add_argument("--samples", type=int, default=10_000, help="train images of both measures; 0 = all")
    parser.add_argument(
        "--finetune", type=int, default=0, metavar="EPOCHS", help="fine-tune each run, too, for so many"
    )
    parser.add_argument(
        "--textbook", action="store_true", help="a plain eager MAE with the first recipe, too"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for runs, lines and plot: new, or of the same command"
    )
    options = parser.parse_args()
    if options.images is not None:
        if options.textbook:
            parser.error("--textbook trains for --minutes: leave --images out")
        if options.images < 1:
            parser.error(f"--images {options.images}: must be at least 1")
        options.minutes = None
    if min(options.seeds) < 0:
        parser.error(f"--seeds {min(options.seeds)}: must be 0 or more")
    if options.finetune < 0:
        parser.error(f"--finetune {options.finetune}: must be 0 (none) or more epochs")
    try:
        lines = run_all(options)
    except UserError as error:
        parser.error(str(error))
    plot(lines, options.out / "learning.png")
    print(table(lines))
    if differences := effects_table(lines):
        print(f"\n{differences}")


if __name__ == "__main__":
    main()
