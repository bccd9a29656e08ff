"""`turbomim eval knn` and `turbomim eval linear`: an encoder of which nothing is trained, scored and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.encoder.source import load_source
from turbomim.train.evaluate.results import print_table, write_result
from turbomim.train.evaluate.scores import Scoring, evaluate_model
from turbomim.train.evaluate.splits import check_samples
from turbomim.train.foreign.sizes import Values


@dataclass(frozen=True, kw_only=True)
class Eval(Scoring):
    """Score a run's frozen encoder on labelled splits: nothing of it is trained."""

    run: tyro.conf.Positional[Path]
    """Run folder, runs/NAME, whose newest whole checkpoint counts; or a FILE with a plain ViT, timm's or
    what `export --to timm|safetensors|mae` made of one."""
    train: Annotated[Path, tyro.conf.arg(metavar="SHARDS")]
    """Labelled split that is learned from."""
    test: Annotated[Path, tyro.conf.arg(metavar="SHARDS")]
    """Labelled split that is scored, all of it."""
    json: Path | None = None
    """File for the scores; RUN/eval/NAME.json if not given, and none of a FILE."""


def score_frozen(measure: str, options: Eval, flags: Values) -> None:
    """Score a run by one measure, print a table, write the JSON file.

    Raises UserError: no run, no checkpoint, splits that cannot be compared.
    """
    check_samples(options.samples, [measure])
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch}: must be at least 1")
    source = load_source(options.run, flags)
    result = {**source.facts, **evaluate_model(source.model, source.config, [measure], options)}
    print_table(result)
    if line := write_result(result, measure, options.json):
        print(line)
