"""`turbomim eval`: what a pre-trained encoder's features are worth, beside what they must be better than.

Every score is given for the trained encoder, for the same encoder with random weights, and for raw pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.encoder.crop import crop_facts, eval_crops
from turbomim.train.encoder.features import Features, extract
from turbomim.train.encoder.resize import at_size, resized
from turbomim.train.encoder.source import describe, load_source, say_assumed
from turbomim.train.evaluate.knn import NEIGHBOURS, knn
from turbomim.train.evaluate.probe import linear_probe
from turbomim.train.evaluate.splits import LEAST, check_splits, choose_ids, say_same
from turbomim.train.folder.sinks import tensorboard_scores
from turbomim.train.foreign.sizes import Values
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import Config
from turbomim.train.settings.flags import flag_values, parse, split_words
from turbomim.train.world.distributed import choose_device

# scores of (train features, train labels, test features, test labels) by name, shares from 0 to 1
Measure = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, float]]
Scores = dict[str, dict[str, float]]

# train samples, if no other number is given
SAMPLES = 10_000


def knn_scores(train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, labels_M: Tensor) -> dict[str, float]:
    """Nearest neighbours, both votes."""
    scores = knn(train_ND, labels_N, test_MD, labels_M)
    return {f"{NEIGHBOURS} neighbours": scores.majority, "weighted": scores.weighted}


def linear_scores(train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, labels_M: Tensor) -> dict[str, float]:
    """The linear probe."""
    return {"linear probe": linear_probe(train_ND, labels_N, test_MD, labels_M).accuracy}


MEASURES: dict[str, Measure] = {"knn": knn_scores, "linear": linear_scores}
# of a result, what decides it besides the weights
SETTINGS = (
    "augment", "size", "train", "train_samples", "test", "epochs", "warmup_epochs", "lr", "head_batch", "seed"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Score a run's frozen encoder on labelled splits: nothing of it is trained."""

    run: tyro.conf.Positional[Path]
    """Run folder, runs/NAME, whose newest whole checkpoint counts; or a FILE with a plain ViT, timm's or
    what `export --to timm|safetensors|mae` made of one."""
    train: Annotated[Path, tyro.conf.arg(metavar="SHARDS")]
    """Labelled split that is learned from."""
    test: Annotated[Path, tyro.conf.arg(metavar="SHARDS")]
    """Labelled split that is scored, all of it."""
    samples: int | None = None
    """Train samples, drawn once and for all; 0 = all; 10,000 if not given (all with --recipe published)."""
    size: int | None = None
    """Side of the crops, pixels; the encoder's if not given.  Another resamples its positions."""
    batch: int = 128
    """Images encoded at once: decides speed and memory alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where images are encoded."""
    json: Path | None = None
    """File for the scores; RUN/eval/NAME.json if not given, and none of a FILE."""


def knn_command(argv: list[str]) -> None:
    """`turbomim eval knn …`.  Raises UserError."""
    own, settings = split_words(argv)
    options = parse(Eval, own, "turbomim eval knn")
    check_json(options.json)
    measure("knn", options, flag_values(settings))


def measure(name: str, options: Eval, flags: Values) -> None:
    """Score a run by one measure, print a table, write the JSON file."""
    result = evaluate(options, {name: MEASURES[name]}, flags)
    print_table(result)
    if line := keep(result, name, options.json):
        print(line)


def check_json(path: Path | None) -> None:
    """Raise UsageError if results cannot go there."""
    if path is not None and path.is_dir():
        raise UsageError(f"--json {path} is a folder: give a file")


def keep(result: Mapping[str, Any], name: str, wanted: Path | None) -> str:
    """Write a result to the file that is wanted, else to RUN/eval/NAME.json; of a FILE to none.

    `turbomim report`, `compare` and the model card of an export read what is there; TensorBoard gets it too.
    Returns which result of other settings gave way to it; empty if none did.
    """
    line = ""
    path = wanted
    if path is None and "run" in result:
        path = Path(result["run"]) / "eval" / f"{name}.json"
        line = replaced(result, path)
    if path is not None:
        write_json(path, result)
    if "run" in result:
        tensorboard_scores(Path(result["run"]), result["step"], result["scores"])
    return line


def replaced(result: Mapping[str, Any], path: Path) -> str:
    """Which result of other settings, in the file, gives way to this one; empty if none does."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key in SETTINGS if key in before and before[key] != result.get(key)]
        changes = "; ".join(f"{key} {before[key]}, now {result.get(key)}" for key in other)
    except (OSError, ValueError, TypeError):
        return ""
    return changes and f"{path} was of other settings ({changes}) and is replaced: --json FILE keeps both"


def evaluate(options: Eval, measures: Mapping[str, Measure], flags: Values | None = None) -> dict[str, Any]:
    """Scores of a run by some measures, and what they were measured on.

    Raises UserError: no run, no checkpoint, splits that cannot be compared.
    """
    least, _ = max(LEAST[name] for name in measures)
    if options.samples and options.samples < least:
        raise UsageError(f"--samples {options.samples}: must be 0 (all) or at least {least}")
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch}: must be at least 1")
    source = load_source(options.run, flags or {})
    say_assumed(source)
    return {**source.facts, **evaluate_model(source.model, source.config, options, measures)}


def evaluate_model(
    model: MAE,
    config: Config,
    options: Eval,
    measures: Mapping[str, Measure],
    known: Scores | None = None,
) -> dict[str, Any]:
    """Scores of a model in memory, of the same encoder with random weights, and of raw pixels.

    known: scores of features that need not be measured again.
    """
    device = choose_device(options.device, 0)
    train, test = open_split(options.train), open_split(options.test)
    check_splits(train, test, tuple(measures))
    say_same(train, test)
    wanted = at_size(config, options.size)
    encoders = {"trained": model, "random weights": make_model(config)}
    encoders = {name: resized(each, config, wanted) for name, each in encoders.items()}

    def features(split: Split, ids_N: NDArray[np.int64]) -> Features:
        crops = eval_crops(split, ids_N, size=wanted.data.size, batch=options.batch)
        return extract(crops, encoders, device)

    learned = features(train, choose_ids(train, SAMPLES if options.samples is None else options.samples))
    scored = features(test, np.arange(test.manifest.samples))
    return {
        "train": str(options.train),
        "train_samples": len(learned.labels_N),
        "test": str(options.test),
        "test_samples": len(scored.labels_N),
        "encoder": describe(config),
        **crop_facts(wanted.data.size),
        "scores": score(learned, scored, measures, known or {}),
    }


def score(learned: Features, scored: Features, measures: Mapping[str, Measure], known: Scores) -> Scores:
    """Scores of every feature by every measure."""
    return {
        name: known.get(name)
        or {
            key: value
            for measure in measures.values()
            for key, value in measure(
                train_ND, learned.labels_N, scored.by_name[name], scored.labels_N
            ).items()
        }
        for name, train_ND in learned.by_name.items()
    }


def name_of(result: Mapping[str, Any]) -> str:
    """What was evaluated."""
    return f"{result['run']}, step {result['step']}" if "run" in result else str(result["file"])


def print_table(result: dict[str, Any]) -> None:
    """The scores in %, one feature a line."""
    scores: Scores = result["scores"]
    columns = list(next(iter(scores.values())))
    table = Table(
        title=(
            f"{name_of(result)}: {result['train_samples']:,} samples of "
            f"{result['train']} to learn from, {result['test_samples']:,} of {result['test']} scored, %"
        ),
        title_justify="left",
    )
    table.add_column("features")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in scores.items():
        table.add_row(name, *(f"{100 * values[column]:.1f}" for column in columns))
    Console().print(table, markup=False)
