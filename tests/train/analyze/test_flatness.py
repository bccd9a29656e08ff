"""`turbomim analyze flatness` against dense Hessians and dense eigenvalues, in float64.

Planted, each seen to fail the test named: no re-orthogonalisation, weights not squared
(`test_as_many_steps_as_rows_give_every_eigenvalue_and_its_share_of_the_start`); bounds of the first row
(`test_few_steps_find_the_ends_within_their_bounds_and_nothing_twice`); steps beyond an exhausted space
(`test_an_exhausted_space_ends_it_and_what_is_no_number_is_said`); a last batch that weighs as a whole one, or
alone, the first batch's masks for all, biases and norms left out, linear layers without a second
derivative of their biases or of their weights
(`test_leading_eigenvalues_are_those_of_the_textbooks_dense_hessian`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.calls import call
from tests.train.analyze.test_frequency import METHODS, two_runs
from tests.train.models.test_mae import inputs, textbook_loss
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from turbomim.benchmarks.step.textbook_mae import TextbookMAE
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.tars.split import open_split
from turbomim.train.analyze.flatness import first_batch, hessian_product, sharpness, trained_weights
from turbomim.train.analyze.lanczos import lanczos
from turbomim.train.analyze.options import Flatness
from turbomim.train.encoder.features import load_run
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.settings.model import ModelConfig

# so small that its Hessian is a matrix
TINY = Config(
    data=DataConfig(size=16),
    model=ModelConfig(patch=4, width=8, depth=1, heads=1, decoder_width=4, decoder_depth=1, decoder_heads=1),
)


def symmetric(values: Tensor) -> Tensor:
    """A matrix with these eigenvalues."""
    g = torch.Generator().manual_seed(1)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=g, dtype=torch.float64))
    matrix: Tensor = basis @ torch.diag(values) @ basis.T
    return matrix


def start(count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_as_many_steps_as_rows_give_every_eigenvalue_and_its_share_of_the_start() -> None:
    matrix = symmetric(torch.linspace(-3, 5, 40, dtype=torch.float64) ** 3)
    found = lanczos(lambda v: matrix @ v, start(40), 99)
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(found.values_S, values.flip(0), rtol=1e-9, atol=1e-9)
    shares = (vectors.T @ (start(40) / start(40).norm())).square().flip(0)
    torch.testing.assert_close(found.weights_S, shares, rtol=1e-6, atol=1e-9)
    assert float(found.bounds_S.max()) < 1e-8


def test_few_steps_find_the_ends_within_their_bounds_and_nothing_twice() -> None:
    """A spectrum like a loss's: a few large values over a bulk of small ones."""
    bulk = torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = symmetric(torch.cat([bulk, torch.tensor([900.0, 80.0, 30.0, -7.0], dtype=torch.float64)]))
    exact = torch.linalg.eigvalsh(matrix)
    found = lanczos(lambda v: matrix @ v, start(304), 60)
    torch.testing.assert_close(found.values_S[:3], exact.flip(0)[:3], rtol=1e-10, atol=0)
    torch.testing.assert_close(found.values_S[-1], exact[0], rtol=1e-10, atol=0)
    # without re-orthogonalisation 900 is found again and again
    assert float(found.values_S[3]) < 1.01
    nearest = (found.values_S[:, None] - exact[None, :]).abs().amin(1)
    assert bool((nearest <= found.bounds_S + 1e-9).all())
    assert float(found.bounds_S[10:30].max()) > 1e-4


def test_an_exhausted_space_ends_it_and_what_is_no_number_is_said() -> None:
    matrix = symmetric(torch.tensor([4.0, 4, 4, 1, 1, 0, 0, 0], dtype=torch.float64))
    found = lanczos(lambda v: matrix @ v, start(8), 8)
    np.testing.assert_allclose(found.values_S.numpy(), [4, 1, 0], atol=1e-9)
    with pytest.raises(ValueError, match="not finite"):
        lanczos(lambda v: v * torch.nan, start(8), 8)
    with pytest.raises(ValueError, match="start vector is zero"):
        lanczos(lambda v: v, torch.zeros(8), 8)


def dense_hessian(loss_of: Callable[[dict[str, Tensor]], Tensor], params: dict[str, Tensor]) -> Tensor:
    """Every second derivative, by torch's own function."""
    names, shapes = list(params), [param.shape for param in params.values()]
    flat = torch.cat([param.detach().flatten() for param in params.values()])

    def loss(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        return loss_of({n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)})

    matrix: Tensor = torch.autograd.functional.hessian(loss, flat, vectorize=True)  # type: ignore[no-untyped-call]
    return matrix


def test_leading_eigenvalues_are_those_of_the_textbooks_dense_hessian() -> None:
    """The model with our linear layers in float32 against a plain one in float64."""
    model, book = make_model(TINY), TextbookMAE(TINY)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in trained_weights(model):
            param.add_(0.1 * torch.randn(param.shape, generator=g))
    book.load_state_dict(model.state_dict())
    book.double()
    images, _, _ = inputs(TINY)
    ids, epochs = torch.arange(5), torch.zeros(5, dtype=torch.long)
    keep, mask = model.random_masking(epochs, ids)
    names = [name for name, param in model.named_parameters() if param.requires_grad]
    in_book = dict(book.named_parameters())
    params: dict[str, Tensor] = {name: in_book[name] for name in names}

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.book = book

        def forward(self) -> Tensor:
            return textbook_loss(book, images, keep, mask, TINY)

    with sdpa_kernel(SDPBackend.MATH):
        exact = torch.linalg.eigvalsh(
            dense_hessian(
                lambda some: functional_call(Loss(), {f"book.{n}": p for n, p in some.items()}, ()), params
            )
        )
    batch = Batch(images_BHWC=images, labels_B=ids, ids_B=ids, epochs_B=epochs, position=0)
    options = Flatness(runs=(), data="", batch=2, steps=60)
    found, loss = sharpness(model, batch, options)
    torch.testing.assert_close(found.values_S[:5], exact.flip(0)[:5], rtol=1e-4, atol=0)
    torch.testing.assert_close(found.values_S[-1], exact[0], rtol=1e-3, atol=0)
    assert float(found.bounds_S[:5].max()) < 1e-3 * float(exact[-1])
    expected = textbook_loss(book, images, keep, mask, TINY).detach()
    assert abs(loss - float(expected)) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_products_are_symmetric_and_the_gradients_slope_for_every_method(method: str) -> None:
    config = METHODS[method]
    model = make_model(config)
    images, keep, mask = inputs(config, batch=2)
    params = trained_weights(model)
    count = sum(param.numel() for param in params)
    u, v = (torch.randn(count, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    ids = torch.arange(2)

    def loss() -> Tensor:
        out: Tensor = model(images, torch.zeros(2, dtype=torch.long), ids, keep, mask)
        return out

    def gradient() -> Tensor:
        parts = torch.autograd.grad(loss(), params, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts]).double()

    with sdpa_kernel(SDPBackend.MATH):
        product = hessian_product(lambda: [loss()], params)
        hu, hv = product(u).double(), product(v).double()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                for param, part in zip(params, torch.split(v, [p.numel() for p in params]), strict=True):
                    param.add_(sign * 1e-3 * part.reshape(param.shape))
            sides.append(gradient())
            with torch.no_grad():
                for param, part in zip(params, torch.split(v, [p.numel() for p in params]), strict=True):
                    param.sub_(sign * 1e-3 * part.reshape(param.shape))
    assert float(hv.norm()) > 0
    assert abs(float(u.double() @ hv - v.double() @ hu)) < 1e-3 * float(hv.norm() * u.norm())
    if not method.startswith(("simmim", "swin")):
        # an absolute error's gradient jumps: its slope over a step is not its slope
        slope = (sides[0] - sides[1]) / 2e-3
        assert float((slope - hv).norm()) < 0.05 * float(hv.norm())


def test_the_command_finds_the_same_again_and_names_each_run(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = two_runs(trees, tmp_path)
    words = ["--data", str(trees), "--images", "6", "--batch", "4", "--steps", "6", "--device", "cpu"]
    found = []
    for out in ("a", "b"):
        folder = tmp_path / out
        assert call(monkeypatch, "analyze", "flatness", *map(str, runs), *words, "--out", str(folder)) == 0
        found.append(json.loads((folder / "flatness.json").read_text())["results"])
        assert (folder / "flatness.png").read_bytes()[:4] == b"\x89PNG"
    assert found[0] == found[1] and list(found[0]) == [str(run) for run in runs]
    config, model, _ = load_run(runs[0])
    batch = first_batch(config, open_split(trees), 6, torch.device("cpu"))
    assert batch.ids_B.tolist() == sorted(set(batch.ids_B.tolist()), key=batch.ids_B.tolist().index)
    with torch.no_grad():
        loss = model(batch.images_BHWC, batch.epochs_B, batch.ids_B)
    first = found[0][str(runs[0])]
    assert abs(first["loss"] - float(loss)) < 1e-5
    assert first["eigenvalues"] == sorted(first["eigenvalues"], reverse=True)
    assert len(first["eigenvalues"]) == len(first["error_bounds"]) == 6
    assert abs(sum(first["density_weights"]) - 1) < 1e-9
    assert f"{first['eigenvalues'][0]:.3g}" in capsys.readouterr().out
    assert call(monkeypatch, "analyze", "flatness", str(runs[0]), "--data", str(trees), "--images", "99") == 2
    assert "--images 99" in capsys.readouterr().err
