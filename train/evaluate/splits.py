"""The labelled splits of an evaluation: checked before anything is computed, and which samples are taken."""

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.evaluate.knn import NEIGHBOURS
from turbomim.train.evaluate.probe import CHOOSING

# train samples that a measure needs, and what for
LEAST = {"knn": (NEIGHBOURS, "the neighbours"), "linear": (CHOOSING, "the choice of the penalty")}


def open_labelled(
    train: str, test: str, measures: Collection[str] = (), say: Callable[[str], None] = print
) -> tuple[Split, Split]:
    """Open the split to learn from and the one to score; say if they hold the same samples.

    Raises UserError as `check_labelled`.
    """
    splits = open_split(train), open_split(test)
    check_labelled(*splits, measures)
    say_same(*splits, say)
    return splits


def check_samples(samples: int | None, measures: Collection[str]) -> None:
    """Raise UsageError for too small a --samples, the train samples to take; 0 = all."""
    least, _ = max(LEAST[name] for name in measures)
    if samples and samples < least:
        raise UsageError(f"--samples {samples}: must be 0 (all) or at least {least}")


def check_labelled(train: Split, test: Split, measures: Collection[str] = ()) -> None:
    """Raise UserError if a split's labels tell nothing apart, or the splits' do not mean the same.

    Also if the train samples are too few for one of the measures.
    """
    for split in (train, test):
        if not split.manifest.labelled:
            raise UserError(
                f"{split.place} has no classes to tell apart: make the split from a folder with a folder of "
                "images a class, or from a list with labels"
            )
    if train.manifest.classes != test.manifest.classes:
        raise UserError(
            f"{train.place} and {test.place} have other classes ({len(train.manifest.classes)} and "
            f"{len(test.manifest.classes)}, or other names): make both from folders with the same names"
        )
    check_enough(train, train.manifest.samples, measures)


def check_enough(train: Split, samples: int, measures: Collection[str]) -> None:
    """Raise UserError if so many samples to learn from are too few for one of the measures."""
    least, why = max((LEAST[name] for name in measures), default=(0, ""))
    if samples < least:
        raise UserError(f"{train.place} has {samples} samples: {least} are needed for {why}")


def say_same(train: Split, test: Split, say: Callable[[str], None]) -> None:
    """Say that a split is scored on the samples that are learned from, where it is."""
    if train.manifest.fingerprint == test.manifest.fingerprint:
        say(
            f"note: --train {train.place} and --test {test.place} hold the same samples: "
            "scores are of what was learned from, and say nothing of other images"
        )


def choose_ids(split: Split, samples: int) -> NDArray[np.int64]:
    """Ids of so many samples of a split, 0 = all, always the same ones, in no order of class."""
    total = split.manifest.samples
    count = min(samples or total, total)
    return sample_ids(np.arange(count), total, 0)[1]
