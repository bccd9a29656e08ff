"""`turbomim.evaluate`: what an encoder is worth, as `turbomim eval` measures it."""

import json as json_format
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final, Literal, get_args

from rich.console import Console

from turbomim.pipeline.system.errors import need
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.train.api.arguments import line_taker
from turbomim.train.encoder.source import load_source
from turbomim.train.evaluate.linear import score_linear
from turbomim.train.evaluate.results import result_file, write_result
from turbomim.train.evaluate.scores import score_frozen
from turbomim.train.evaluate.scoring import LinearScoring, Scoring
from turbomim.train.finetune.asked import FinetuneAsked
from turbomim.train.finetune.finetune import finetune
from turbomim.train.finetune.settings import finetune_settings
from turbomim.train.settings.dictionary import by_section, from_options

Measure = Literal["knn", "linear", "finetune"]
UNKNOWN: Final = "unknown option"


def evaluate(
    run: str | PathLike[str],
    measure: Measure,
    *,
    train: str | PathLike[str],
    test: str | PathLike[str],
    # a path, a Console, a function: a type checker wants every value of `**{"optim.epochs": 10}` to be one
    json: Any = None,
    console: Any = None,
    notify: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Score an encoder on labelled shards, as `turbomim eval` does.

    Example:
        result = turbomim.evaluate(run, "knn", train="shards/train", test="shards/test")
        print(result["scores"]["trained: mean of patch tokens"]["20 neighbours"])

    Args:
        run: A run's folder, or a file that `turbomim eval` takes.
        measure: "knn": 20 nearest neighbours of frozen features; "linear": a linear layer on frozen features;
            "finetune": the whole encoder is trained on labels.  It is a run of its own, RUN/eval/finetune,
            which the same call resumes.
        train: Labelled shards that are learned from.
        test: Labelled shards that are scored.
        json: A file for the result; RUN/eval/MEASURE.json if None, and none of a file's encoder.
        console: Where bars and a fine-tuning's lines go, a rich.console.Console; standard output if None.
        notify: Takes a line on what a file does not tell of its encoder, on splits that hold the same
            samples, and on a result of other settings that is replaced.  None: each is a warning of Python's.
        **options: Options of `turbomim eval MEASURE` by their names.  knn and linear: samples (train samples,
            0 for all), size (pixels), batch (images), device; linear: recipe ("solved" or "published"),
            epochs, warmup_epochs, base_lr, head_batch, augment, seed; finetune: random, epochs, batch,
            base_lr, and any setting as `**{"section.key": value}`.

    Returns:
        The result, as the JSON file has it.  `scores`: shares of the test samples, 0 to 1, by feature and
        measure; random weights and raw pixels are beside the trained encoder.  Of "finetune": top1, top5,
        test_loss and `folder`, the run of the fine-tuned weights.  An image that cannot be decoded is named
        on standard error and left out: `test_samples` are scored, `test_left_out` are not.

    Raises:
        UserError: No run or no checkpoint there, splits without labels or with other classes, an option that
            does not exist or cannot be.
        KeyboardInterrupt: A fine-tuning was asked to stop.  A checkpoint is saved: the same call goes on.
    """
    need(measure in get_args(Measure), "measure", repr(measure), ", ".join(get_args(Measure)))
    raise_limit()
    kept = None if json is None else Path(json)
    say = line_taker(notify)
    settings = {name: value for name, value in options.items() if "." in name}
    plain = {name: value for name, value in options.items() if "." not in name}
    plain |= {"train": fspath(train), "test": fspath(test)}
    if measure == "finetune":
        return _finetune(Path(run), from_options(plain, FinetuneAsked, UNKNOWN), settings, kept, console, say)
    scoring = from_options(plain, Scoring if measure == "knn" else LinearScoring, UNKNOWN)
    published = isinstance(scoring, LinearScoring) and scoring.recipe == "published"
    source = load_source(Path(run), settings, say)
    file = result_file(kept, source, f"{measure}-published" if published else measure)
    if isinstance(scoring, LinearScoring):
        result = score_linear(source, scoring, console or Console(), say)
    else:
        result = score_frozen(source, "knn", scoring, console, say)
    if replaced := write_result(result, file, beside_run=kept is None):
        say(replaced)
    return result


def _finetune(
    run: Path,
    asked: FinetuneAsked,
    settings: dict[str, Any],
    json: Path | None,
    console: Any,
    say: Callable[[str], None],
) -> dict[str, Any]:
    model = {name: value for name, value in settings.items() if name.startswith("model.")}
    source = load_source(run, model, say)
    source.pretrained()
    if asked.random:
        source = source.initial()
    others = {name: value for name, value in settings.items() if name not in model}
    config = finetune_settings(asked, source, by_section(others, "settings"))
    kept = result_file(json, source, config.run.name)
    outcome = finetune(config, source, console=console, result_copies=[] if kept is None else [kept])
    if outcome.status == "preempted":
        raise KeyboardInterrupt(f"stopped at step {outcome.step} of {outcome.steps}; the same call goes on")
    result = outcome.folder / "result.json"
    # a rank on a machine that does not see the folder has nothing to read
    found = json_format.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    return {**found, "folder": str(outcome.folder)}
