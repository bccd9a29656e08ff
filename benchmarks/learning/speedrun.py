"""How soon is a score reached?  `python -m turbomim.benchmarks.learning.speedrun --recipe … --out FOLDER`.

A recipe is pre-trained from nothing by `turbomim pretrain`, once for each of --seeds, for as long as the
recipe and --set say.  The clock starts before the process and stops after it: it counts start-up, compilation
into an empty cache, and the last checkpoint.  Then `turbomim eval linear`'s solved probe judges, outside the
clock.  A record is the mean time of runs whose probe of the mean of patch tokens is, in the mean over the
seeds, at least --target.  Rules: docs/learning.md, "The speed-run".  Prints JSON lines, and a table of all
that --out holds.  The same command again runs what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
from pathlib import Path

from turbomim.benchmarks.learning.bench import about_run, pretrain, scored, settings
from turbomim.benchmarks.learning.results import TRAINED, Line, begin, keep
from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.system.errors import UserError
from turbomim.train.encoder.features import CLASS_TOKEN, PIXELS, load_run
from turbomim.train.evaluate.results import Scores
from turbomim.train.folder.log import seconds_of
from turbomim.train.machine.cpu_products import auto_is_bfloat16
from turbomim.train.machine.processor import cores
from turbomim.train.settings.config import Config, StepConfig
from turbomim.train.settings.precision import precision_name
from turbomim.train.world.distributed import choose_device

KIND = "speedrun"
PROBE, NEIGHBOURS = "linear probe", "20 neighbours"
TRAINED_TOKEN = f"trained: {CLASS_TOKEN}"
# of the table, but for the one that names the target
HEADERS = (
    *("recipe and settings", "commit", "precision", "seeds", "minutes", "CPU minutes", "images", "img/s"),
    *("probe, each seed", "probe", "class token", NEIGHBOURS),
)


def check_rules(config: Config) -> None:
    """Raise UserError for a run that would read labels or other images than those it learns from."""
    others = {"data.heldout": config.data.heldout, "eval.every_epochs": config.eval.every_epochs}
    for setting, value in others.items():
        if value:
            raise UserError(
                f"{setting} {value}: a speed-run reads train images alone, no label: leave it out"
            )


def precision_of(step: StepConfig) -> str:
    """The type of a run's matrix products: what is asked for, or what `auto` is on this machine."""
    if step.precision != "auto":
        return step.precision
    return precision_name(bfloat16=auto_is_bfloat16(choose_device(step.device, 0)))


def run(seed: int, options: argparse.Namespace, folder: Path, known: Scores) -> Line:
    """Pre-train once by the clock, then score: one line of results."""
    words, config = settings(options.recipe, seed, options)
    check_rules(config)
    load = Path("/proc/loadavg").read_text(encoding="ascii").strip()
    print(f"/proc/loadavg {load}", file=sys.stderr, flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, records = pretrain(words, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        **about_run(options.recipe, seed, options, seconds, records),
        "cpu_minutes": round(cpu_s / 60, 2),
        # imports, opening, the checkpoint, the export
        "start_and_end_s": round(seconds - sum(map(seconds_of, records)), 1),
        # the steps that hold a compilation, and their seconds
        "first_steps": sum(r["window"] for r in records if r["first"]),
        "first_steps_s": round(sum(seconds_of(r) for r in records if r["first"]), 1),
        "load_before": load,
        "cores": cores(),
        "precision": precision_of(config.step),
        **scored(load_run(folder)[1], config, options, known),
    }


def run_all(options: argparse.Namespace) -> list[Line]:
    """Lines of all that --out holds, once every seed has its own; each is kept as soon as it is there.

    Raises UserError if --out is of other splits, or a run fails.
    """
    asked = {"train": str(options.train), "test": str(options.test), "samples": options.samples}
    lines = begin(options.out, asked, KIND)
    for seed in options.seeds:
        key = [options.recipe, options.set, seed]
        if any([line["name"], line["settings"], line["seed"]] == key for line in lines):
            print(f"{label(*key[:2])}, seed {seed}: {options.out} has it", file=sys.stderr, flush=True)
            continue
        # pixels are the same for every run, and the dearest to score
        known = {PIXELS: lines[0]["scores"][PIXELS]} if lines else {}
        folder = options.out / f"{len(lines) + 1}-{options.recipe}-seed{seed}"
        lines.append({**run(seed, options, folder, known), **machine()})
        keep(lines, options.out, KIND)
        print(json.dumps(lines[-1]), flush=True)
    return lines


def label(name: str, changed: list[str]) -> str:
    """A recipe and the settings that differ from it."""
    return " ".join([name, *changed])


def mean(runs: list[Line], key: str) -> float:
    """Mean of a number over the seeds."""
    return statistics.fmean(run[key] for run in runs)


def scores(runs: list[Line], features: str, measure: str) -> list[float]:
    """Each seed's score, in %; NaN where an encoder has no such feature."""
    return [100 * run["scores"].get(features, {}).get(measure, math.nan) for run in runs]


def table(lines: list[Line], target: float) -> str:
    """Markdown: a row for each recipe with settings, commit and precision.

    Scores are in %, each seed's and means over them.
    """
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        key = label(line["name"], line["settings"]), line["commit"], line["precision"]
        groups.setdefault(key, []).append(line)
    rows: list[tuple[str, ...]] = [(*HEADERS[:-2], f"at least {target:g}", *HEADERS[-2:])]
    for group, runs in groups.items():
        probes = scores(runs, TRAINED, PROBE)
        probe = statistics.fmean(probes)
        rows.append(
            (
                *group,
                ", ".join(str(run["seed"]) for run in runs),
                *(f"{mean(runs, key):.2f}" for key in ("minutes", "cpu_minutes")),
                *(f"{mean(runs, key):,.0f}" for key in ("images", "img_per_s")),
                ", ".join(f"{each:.2f}" for each in probes),
                f"{probe:.2f}",
                "yes" if probe >= target else "no",
                f"{statistics.fmean(scores(runs, TRAINED_TOKEN, PROBE)):.2f}",
                f"{statistics.fmean(scores(runs, TRAINED, NEIGHBOURS)):.2f}",
            )
        )
    return markdown_table(rows, words=3)


def main() -> None:
    """Pre-train by the clock, score, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True, help="labelled shards to learn from")
    parser.add_argument("--test", type=Path, required=True, help="labelled shards that judge")
    parser.add_argument("--recipe", required=True, help="what is pre-trained, and for how long")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings over the recipe's"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each")
    parser.add_argument(
        "--target", type=float, default=60.0, help="%% of test images that the probe must get"
    )
    parser.add_argument("--samples", type=int, default=10_000, help="train images of the probe; 0 = all")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and lines, of many commands")
    options = parser.parse_args()
    if min(options.seeds) < 0:
        parser.error(f"--seeds {min(options.seeds)}: must be 0 or more")
    try:
        lines = run_all(options)
    except UserError as error:
        parser.error(str(error))
    print(table(lines, options.target))


if __name__ == "__main__":
    main()
