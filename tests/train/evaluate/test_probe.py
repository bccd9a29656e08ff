"""The linear probe against Newton's method in float64, written out here.

Planted, each seen to fail the test named: the penalty not halved, or on the bias too
(`test_the_fit_is_the_minimum`); the test features standardised by their own statistics
(`test_the_test_samples_change_nothing_that_is_learned`); the weakest penalty always taken
(`test_the_penalty_is_chosen_by_held_out_train_samples`).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from turbomim.train.evaluate import probe
from turbomim.train.evaluate.probe import choose_penalty, fit_classifier, fit_linear_probe, mean_and_deviation


def problem(samples: int, width: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features in float64 of classes that overlap, and labels."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=random)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.randn(samples, width, generator=random, dtype=torch.float64)
    return centres[labels] + 1.5 * noise, labels


def newton(features: Tensor, labels: Tensor, classes: int, penalty: float) -> Tensor:
    """Weight rows, then the bias row with mean 0, of the same objective, by 30 Newton steps."""
    ones = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)

    def objective(flat: Tensor) -> Tensor:
        matrix = flat.view(ones.shape[1], classes)
        loss = functional.cross_entropy(ones @ matrix, labels) + penalty / 2 * matrix[:-1].square().sum()
        # any number may be added to all biases; this picks one
        return loss + 0.5 * matrix[-1].sum().square()

    flat = torch.zeros(ones.shape[1] * classes, dtype=features.dtype)
    for _ in range(30):
        gradient = torch.func.grad(objective)(flat)
        hessian = torch.func.hessian(objective)(flat)
        flat = flat - torch.linalg.solve(hessian, gradient)
    return flat.view(ones.shape[1], classes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
def test_the_fit_is_the_minimum(penalty: float, dtype: torch.dtype) -> None:
    features, labels = problem(150, 4, 3)
    expected = newton(features, labels, 3, penalty)
    found = fit_classifier(features.to(dtype), labels, 3, penalty, None)
    # float32: the line search ends where the loss's last bits no longer tell points apart
    tolerance = 1e-5 if dtype == torch.float64 else 5e-3
    torch.testing.assert_close(found.weight_DC.double(), expected[:-1], rtol=tolerance, atol=tolerance)
    bias = found.bias_C.double()
    torch.testing.assert_close(bias - bias.mean(), expected[-1], rtol=tolerance, atol=tolerance)


def test_a_start_changes_the_way_not_the_end() -> None:
    features, labels = problem(150, 4, 3)
    strong = fit_classifier(features, labels, 3, 1.0, None)
    kept = strong.weight_DC.clone()
    warm, cold = (fit_classifier(features, labels, 3, 1e-3, start) for start in (strong, None))
    torch.testing.assert_close(warm.weight_DC, cold.weight_DC, rtol=1e-4, atol=1e-4)
    assert torch.equal(strong.weight_DC, kept)


def test_the_penalty_is_chosen_by_held_out_train_samples() -> None:
    """Noise in many dimensions wants a strong penalty; many samples in few dimensions do not."""
    few, labels = problem(100, 4, 3)
    noise = torch.randn(100, 200, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    strong = choose_penalty(torch.cat([few, noise], dim=1), labels, 3)
    many, many_labels = problem(3000, 4, 3)
    scale = torch.tensor([1.0, 1.0, 1.0, 1e-2], dtype=torch.float64)
    weak = choose_penalty(many * scale, many_labels, 3)
    assert strong >= 1e-1 > weak


def test_the_test_samples_change_nothing_that_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test samples one at a time, and in one batch with others far away, are scored the same."""
    train, labels = problem(200, 4, 3)
    test, test_labels = problem(60, 4, 3, seed=1)
    learned = fit_linear_probe(train, labels)
    whole = learned.accuracy(test, test_labels)
    single = [learned.accuracy(test[n : n + 1], test_labels[n : n + 1]) for n in range(0, 60, 12)]
    both = learned.accuracy(torch.cat([test, 1e4 + test]), torch.cat([test_labels, test_labels]))
    assert both == pytest.approx((whole + learned.accuracy(1e4 + test, test_labels)) / 2, abs=1e-12)
    mean, deviation = mean_and_deviation(train)
    solution = fit_classifier((train - mean) / deviation, labels, 3, learned.penalty, None)
    logits = (test - mean) / deviation @ solution.weight_DC + solution.bias_C
    right = logits.argmax(1) == test_labels
    assert whole == pytest.approx(right.double().mean().item(), abs=1e-12)
    assert single == right[::12].double().tolist()
    assert whole > 0.45, "three classes"


def test_features_that_do_not_vary_and_scales_do_not_matter() -> None:
    train, labels = problem(200, 4, 3)
    test, test_labels = problem(300, 4, 3, seed=1)
    plain = fit_linear_probe(train, labels)
    constant = torch.full((len(train), 1), 7.0, dtype=train.dtype)
    scale, shift = torch.tensor([1e-3, 1.0, 1e3, 5.0]).double(), torch.tensor([5.0, 0.0, -1e4, 2.0]).double()
    other = fit_linear_probe(torch.cat([train * scale + shift, constant], dim=1), labels)
    scaled = torch.cat([test * scale + shift, torch.full((len(test), 1), 7.0, dtype=test.dtype)], dim=1)
    assert other.penalty == plain.penalty
    assert other.accuracy(scaled, test_labels) == pytest.approx(plain.accuracy(test, test_labels), abs=0.004)


def test_it_is_the_same_every_time() -> None:
    train, labels = problem(300, 6, 4)
    test, test_labels = problem(300, 6, 4, seed=1)
    first = fit_linear_probe(train.float(), labels)
    torch.manual_seed(123)
    again = fit_linear_probe(train.float(), labels)
    assert torch.equal(again.classifier.weight_DC, first.classifier.weight_DC)
    assert (again.accuracy(test.float(), test_labels), again.penalty) == (
        first.accuracy(test.float(), test_labels),
        first.penalty,
    )
    assert probe.CHOOSING == 5
