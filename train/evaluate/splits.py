"""The labelled splits of an evaluation: checked before anything is computed, and which samples are taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.evaluate.knn import NEIGHBOURS
from turbomim.train.evaluate.probe import CHOOSING

# train samples that a measure needs, and what for
LEAST = {"knn": (NEIGHBOURS, "the neighbours"), "linear": (CHOOSING, "the choice of the penalty")}


def check_splits(train: Split, test: Split, measures: Sequence[str] = ("knn",)) -> None:
    """Raise UserError if the splits' labels do not mean the same, or samples are too few for the measures."""
    check_classes(train, test)
    least, why = max(LEAST[name] for name in measures)
    if train.manifest.samples < least:
        raise UserError(f"{train.path} has {train.manifest.samples} samples: {least} are needed for {why}")


def check_classes(train: Split, test: Split) -> None:
    """Raise UserError if a split's labels tell nothing apart, or the splits' do not mean the same."""
    for split in (train, test):
        if not split.manifest.labelled:
            raise UserError(
                f"{split.path} has no classes to tell apart: make the split from a folder with a folder of "
                "images a class, or from a list with labels"
            )
    if train.manifest.classes != test.manifest.classes:
        raise UserError(
            f"{train.path} and {test.path} have other classes ({len(train.manifest.classes)} and "
            f"{len(test.manifest.classes)}, or other names): make both from folders with the same names"
        )


def say_same(train: Split, test: Split) -> None:
    """Print that a split is scored on the samples that are learned from, where it is."""
    if train.manifest.fingerprint == test.manifest.fingerprint:
        print(
            f"note: --train {train.path} and --test {test.path} hold the same samples: "
            "scores are of what was learned from, and say nothing of other images"
        )


def choose_ids(split: Split, samples: int) -> NDArray[np.int64]:
    """Ids of so many samples of a split, 0 = all, always the same ones, in no order of class."""
    total = split.manifest.samples
    count = min(samples or total, total)
    return sample_ids(np.arange(count), total, 0)[1]
