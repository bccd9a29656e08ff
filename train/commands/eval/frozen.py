"""`turbomim eval knn` and `turbomim eval linear`: an encoder of which nothing is trained, scored and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.encoder.source import load_source, say_assumed
from turbomim.train.evaluate.results import keep, print_table
from turbomim.train.evaluate.scores import MEASURES, Measure, evaluate_model
from turbomim.train.evaluate.splits import LEAST
from turbomim.train.foreign.sizes import Values


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


def measure(name: str, options: Eval, flags: Values) -> None:
    """Score a run by one measure, print a table, write the JSON file."""
    result = evaluate(options, {name: MEASURES[name]}, flags)
    print_table(result)
    if line := keep(result, name, options.json):
        print(line)


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
    result = evaluate_model(
        source.model,
        source.config,
        measures,
        options.train,
        options.test,
        samples=options.samples,
        size=options.size,
        batch=options.batch,
        device=options.device,
    )
    return {**source.facts, **result}
