"""Nearest neighbours against a loop in float64.

Planted, each seen to fail `test_votes_equal_a_loops`: the mean left in, no normalisation of the test or train
features, the temperature left out of the weight, the similarity negated; and
`test_more_test_samples_than_a_chunk`: chunks joined in another order.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from turbomim.train.evaluate import knn as module
from turbomim.train.evaluate.knn import knn

Floats = NDArray[np.float64]


def loop(
    train: Floats, labels: NDArray[np.int64], test: Floats, neighbours: int, temperature: float
) -> tuple[list[int], list[int]]:
    """The majority's and the weighted vote's class of every test sample, one sample at a time."""
    majority, weighted = [], []
    train, test = train - train.mean(0), test - train.mean(0)
    for sample in test:
        cosine = [sample @ t / np.linalg.norm(sample) / np.linalg.norm(t) for t in train]
        order = sorted(range(len(train)), key=lambda n: -cosine[n])[:neighbours]
        classes = range(labels.max() + 1)
        majority.append(max(classes, key=lambda c: sum(labels[n] == c for n in order)))
        weighted.append(
            max(classes, key=lambda c: sum(np.exp(cosine[n] / temperature) for n in order if labels[n] == c))
        )
    return majority, weighted


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("neighbours", [1, 7, 20])
def test_votes_equal_a_loops(neighbours: int, temperature: float) -> None:
    random = np.random.default_rng(neighbours)
    # lengths of very different size, so that only the angle may count
    train = random.normal(size=(60, 5)) * random.uniform(0.1, 10, (60, 1)) + 4
    test = random.normal(size=(40, 5)) * random.uniform(0.1, 10, (40, 1)) + 4
    labels, test_labels = random.integers(0, 4, 60), random.integers(0, 4, 40)
    scores = knn(
        *(torch.from_numpy(each) for each in (train, labels, test, test_labels)),
        neighbours=neighbours,
        temperature=temperature,
    )
    majority, weighted = loop(train, labels, test, neighbours, temperature)
    assert scores.majority == pytest.approx(np.mean(np.array(majority) == test_labels), abs=1e-12)
    assert scores.weighted == pytest.approx(np.mean(np.array(weighted) == test_labels), abs=1e-12)


def test_more_test_samples_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    train, test = torch.randn(50, 6, generator=random), torch.randn(23, 6, generator=random)
    whole = module.nearest(train, test, 5)
    monkeypatch.setattr(module, "CHUNK", 4)
    for one, parts in zip(whole, module.nearest(train, test, 5), strict=True):
        torch.testing.assert_close(parts, one)


def test_each_sample_is_its_own_nearest_neighbour() -> None:
    """Similarities that differ by thousands of temperatures neither overflow nor vanish."""
    features, labels = torch.eye(30).double() + 1e-3, torch.arange(30)
    scores = knn(features, labels, 1e3 * features, labels, neighbours=2, temperature=1e-6)
    assert scores.weighted == 1.0


def test_fewer_samples_than_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="19 train samples are fewer than the 20 neighbours"):
        knn(torch.ones(19, 2), torch.zeros(19, dtype=torch.int64), torch.ones(1, 2), torch.zeros(1))
