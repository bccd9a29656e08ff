"""What an encoder's features are worth, beside what they must be better than.

Every score is given for the trained encoder, for the same encoder with random weights, and for raw pixels.
Suffixes: N train samples, M test samples, D values of a feature.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import crop_facts, eval_crops
from turbomim.train.encoder.features import Features, every_feature, extract, trained_and_random
from turbomim.train.encoder.resize import at_size, resized
from turbomim.train.encoder.source import Source, encoder_size
from turbomim.train.evaluate.knn import NEIGHBOURS, knn
from turbomim.train.evaluate.probe import fit_linear_probe
from turbomim.train.evaluate.results import Scores, sample_counts
from turbomim.train.evaluate.scoring import Scoring
from turbomim.train.evaluate.splits import check_enough, check_samples, choose_ids, open_labelled
from turbomim.train.models.classifier import Encoder
from turbomim.train.settings.config import Config
from turbomim.train.settings.flags import check_least
from turbomim.train.terminal.progress import image_bar
from turbomim.train.world.distributed import choose_device

# scores of (train features, train labels, test features, test labels) by name, shares from 0 to 1
Measure = Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, float]]

# train samples, if no other number is given
SAMPLES = 10_000


def knn_scores(train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, labels_M: Tensor) -> dict[str, float]:
    """Nearest neighbours, both votes."""
    scores = knn(train_ND, labels_N, test_MD, labels_M)
    return {f"{NEIGHBOURS} neighbours": scores.majority, "weighted": scores.weighted}


def linear_scores(train_ND: Tensor, labels_N: Tensor, test_MD: Tensor, labels_M: Tensor) -> dict[str, float]:
    """The linear probe."""
    return {"linear probe": fit_linear_probe(train_ND, labels_N).accuracy(test_MD, labels_M)}


MEASURES: dict[str, Measure] = {"knn": knn_scores, "linear": linear_scores}


def evaluate_model(
    model: Encoder,
    config: Config,
    measures: Collection[str],
    on: Scoring,
    known: Scores | None = None,
    console: Console | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Scores of a model in memory, of the same encoder with random weights, and of raw pixels.

    measures: names in MEASURES; known: scores of features that need not be measured again; console: where
    bars are drawn; say: takes a line where both splits are the same.
    Raises UserError: splits that cannot be compared.
    """
    device = choose_device(on.device, 0)
    train, test = open_labelled(on.train, on.test, measures, say)
    wanted = at_size(config, on.size)
    encoders = {
        name: resized(each, config, wanted).to(device).eval()
        for name, each in trained_and_random(model, config).items()
    }

    def features(split: Split, ids_N: NDArray[np.int64]) -> Features:
        crops = eval_crops(split, ids_N, size=wanted.data.size, batch=on.batch)
        with image_bar(console or Console(), lines=False) as bar:
            return extract(
                crops, partial(every_feature, encoders), device, partial(bar.show, total=len(ids_N))
            )

    ids_N = choose_ids(train, SAMPLES if on.samples is None else on.samples)
    learned = features(train, ids_N)
    check_enough(train, len(learned.labels_N), measures)
    scored = features(test, np.arange(test.manifest.samples))
    return {
        "train": str(on.train),
        **sample_counts("train", len(ids_N), len(learned.labels_N)),
        "test": str(on.test),
        **sample_counts("test", test.manifest.samples, len(scored.labels_N)),
        "encoder": encoder_size(config),
        **crop_facts(wanted.data.size),
        "scores": scores_of(learned, scored, measures, known or {}),
    }


def score_frozen(
    source: Source, measure: str, on: Scoring, console: Console | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Score a frozen encoder by a measure of MEASURES.  Raises UserError: splits that cannot be compared."""
    check_samples(on.samples, [measure])
    check_least(batch=(on.batch, 1))
    scored = evaluate_model(source.model, source.config, [measure], on, console=console, say=say)
    return {**source.facts, **scored}


def scores_of(learned: Features, scored: Features, measures: Collection[str], known: Scores) -> Scores:
    """Scores of every feature by every measure."""
    scores: Scores = {}
    for name, train_ND in learned.by_name.items():
        parts = train_ND, learned.labels_N, scored.by_name[name], scored.labels_N
        measured = (MEASURES[measure](*parts) for measure in measures)
        scores[name] = known.get(name) or {key: value for each in measured for key, value in each.items()}
    return scores
