"""The linear probe: multinomial logistic regression on standardised features, solved, not tuned.

The objective is convex, so its solution depends on no learning rate, batch or seed; the one number to choose,
the penalty, is chosen on a part of the train samples.  Suffixes: N samples, D values of a feature, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# from strong to weak; each fit starts from the one before
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# one train sample in so many helps to choose the penalty instead of fitting
CHOOSING = 5
ITERATIONS = 200
TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearClassifier:
    """Logits are features @ weight + bias: weight (D, C), bias (C,)."""

    weight_DC: Tensor
    bias_C: Tensor

    def accuracy(self, features_ND: Tensor, labels_N: Tensor) -> float:
        """Share of samples whose largest logit is their class's."""
        logits_NC = features_ND @ self.weight_DC + self.bias_C
        return (logits_NC.argmax(1) == labels_N).double().mean().item()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearProbe:
    """A classifier of features that were standardised by the train features' mean and deviation, (D,) each.

    penalty: the one that was chosen.
    """

    mean_D: Tensor
    deviation_D: Tensor
    classifier: LinearClassifier
    penalty: float

    def accuracy(self, features_ND: Tensor, labels_N: Tensor) -> float:
        """Share of samples that are classified correctly, 0 to 1; features as they were before."""
        return self.classifier.accuracy((features_ND - self.mean_D) / self.deviation_D, labels_N)


def mean_and_deviation(train_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and standard deviation (D,) of the train features; 1 where they do not vary."""
    deviation_D, mean_D = torch.std_mean(train_ND, dim=0, correction=0)
    return mean_D, torch.where(deviation_D > 1e-12, deviation_D, 1.0)


def fit_classifier(
    features_ND: Tensor, labels_N: Tensor, classes: int, penalty: float, start: LinearClassifier | None
) -> LinearClassifier:
    """Minimise mean cross-entropy + penalty / 2 x (sum of squared weights); the bias is free.

    L-BFGS with a line search, from zeros or from `start`, in the features' dtype, ITERATIONS steps at most.
    """
    shape = (features_ND.shape[1], classes)
    weight_DC = torch.zeros(shape, dtype=features_ND.dtype) if start is None else start.weight_DC.clone()
    bias_C = torch.zeros(classes, dtype=features_ND.dtype) if start is None else start.bias_C.clone()
    solver = torch.optim.LBFGS(
        [weight_DC.requires_grad_(), bias_C.requires_grad_()],
        max_iter=ITERATIONS,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = functional.cross_entropy(features_ND @ weight_DC + bias_C, labels_N)
        loss = loss + penalty / 2 * weight_DC.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(objective)  # type: ignore[no-untyped-call]
    return LinearClassifier(weight_DC=weight_DC.detach(), bias_C=bias_C.detach())


def choose_penalty(features_ND: Tensor, labels_N: Tensor, classes: int) -> float:
    """The penalty whose fit to four of five samples classifies the fifth best; the stronger of equals."""
    held_N = torch.arange(len(labels_N)) % CHOOSING == CHOOSING - 1
    scores: dict[float, float] = {}
    classifier = None
    for penalty in PENALTIES:
        classifier = fit_classifier(features_ND[~held_N], labels_N[~held_N], classes, penalty, classifier)
        scores[penalty] = classifier.accuracy(features_ND[held_N], labels_N[held_N])
    return max(scores, key=lambda penalty: scores[penalty])


def fit_linear_probe(train_ND: Tensor, labels_N: Tensor) -> LinearProbe:
    """Choose the penalty on the train samples, and fit all of them.

    features (N, D) float, labels (N,) int64 from 0.  Train samples should come in no order of class.
    """
    mean_D, deviation_D = mean_and_deviation(train_ND)
    features_ND = (train_ND - mean_D) / deviation_D
    classes = int(labels_N.max()) + 1
    penalty = choose_penalty(features_ND, labels_N, classes)
    classifier = fit_classifier(features_ND, labels_N, classes, penalty, None)
    return LinearProbe(mean_D=mean_D, deviation_D=deviation_D, classifier=classifier, penalty=penalty)
