"""What an encoder's features are worth, beside what they must be better than.

Every score is given for the trained encoder, for the same encoder with random weights, and for raw pixels.
Suffixes: N train samples, M test samples, D values of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.encoder.crop import crop_facts, eval_crops
from turbomim.train.encoder.features import Features, every_feature, extract, trained_and_random
from turbomim.train.encoder.resize import at_size, resized
from turbomim.train.encoder.source import describe
from turbomim.train.evaluate.knn import NEIGHBOURS, knn
from turbomim.train.evaluate.probe import fit_linear_probe
from turbomim.train.evaluate.results import Scores
from turbomim.train.evaluate.splits import check_splits, choose_ids, say_same
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config
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
    model: MAE,
    config: Config,
    measures: Mapping[str, Measure],
    train: Path,
    test: Path,
    *,
    samples: int | None = None,
    size: int | None = None,
    batch: int = 128,
    device: str = "auto",
    known: Scores | None = None,
) -> dict[str, Any]:
    """Scores of a model in memory, of the same encoder with random weights, and of raw pixels.

    train, test: labelled splits to learn from and to score, all of the second.  samples: of the first, 0 =
    all; size: side of the crops in pixels, the encoder's if not given; batch: images encoded at once; device:
    auto, cpu or cuda; known: scores of features that need not be measured again.
    Raises UserError: splits that cannot be compared.
    """
    where = choose_device(device, 0)
    learn_from, scored_on = open_split(train), open_split(test)
    check_splits(learn_from, scored_on, tuple(measures))
    say_same(learn_from, scored_on)
    wanted = at_size(config, size)
    encoders = {
        name: resized(each, config, wanted).to(where).eval()
        for name, each in trained_and_random(model, config).items()
    }

    def features(split: Split, ids_N: NDArray[np.int64]) -> Features:
        crops = eval_crops(split, ids_N, size=wanted.data.size, batch=batch)
        return extract(crops, partial(every_feature, encoders), where)

    learned = features(learn_from, choose_ids(learn_from, SAMPLES if samples is None else samples))
    scored = features(scored_on, np.arange(scored_on.manifest.samples))
    return {
        "train": str(train),
        "train_samples": len(learned.labels_N),
        "test": str(test),
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
