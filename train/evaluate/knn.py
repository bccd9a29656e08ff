"""Nearest neighbours: how far features alone tell classes apart, with nothing trained on the labels.

Suffixes: N train samples, M test samples, D values of a feature, K neighbours, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NEIGHBOURS = 20
TEMPERATURE = 0.07
# test samples compared with all train samples at once
CHUNK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnScores:
    """Share of test samples whose neighbours vote for their class, 0 to 1.

    majority: each neighbour has one vote; weighted: exp(similarity / temperature) votes.
    """

    majority: float
    weighted: float


def nearest(train_ND: Tensor, test_MD: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities (M, K), largest first, and the places of these train samples (M, K) int64."""
    train_ND = functional.normalize(train_ND, dim=1)
    found = [
        (functional.normalize(test_MD[start : start + CHUNK], dim=1) @ train_ND.T).topk(neighbours, dim=1)
        for start in range(0, len(test_MD), CHUNK)
    ]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def knn(
    train_ND: Tensor,
    train_labels_N: Tensor,
    test_MD: Tensor,
    test_labels_M: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> KnnScores:
    """Classify test samples by their nearest train samples, in cosine similarity about the train mean.

    A tie goes to the class of the lower number.
    features (N, D) and (M, D) float, labels (N,) and (M,) int64 from 0.  Raises ValueError for fewer train
    samples than neighbours.  Source: Wu et al., arXiv:1805.01978 sec. 3.4, which takes no mean off.
    """
    if len(train_ND) < neighbours:
        raise ValueError(f"{len(train_ND)} train samples are fewer than the {neighbours} neighbours")
    # else the angle is mostly to what all samples share: brightness in pixels, a large mean in features
    mean_D = train_ND.mean(0)
    similarity_MK, places_MK = nearest(train_ND - mean_D, test_MD - mean_D, neighbours)
    one_hot_MKC = functional.one_hot(train_labels_N[places_MK], int(train_labels_N.max()) + 1)
    # the largest is 1 after the shift, which changes no vote's share and cannot overflow
    weights_MK = ((similarity_MK - similarity_MK[:, :1]) / temperature).exp()
    majority_M = one_hot_MKC.sum(1).argmax(1)
    weighted_M = (one_hot_MKC * weights_MK[..., None]).sum(1).argmax(1)
    return KnnScores(
        majority=(majority_M == test_labels_M).double().mean().item(),
        weighted=(weighted_M == test_labels_M).double().mean().item(),
    )
