"""Muon against its formulas in float64, and which weights it steps.

Planted, each seen to fail the test named: a step without Nesterov's momentum, decay at the scaled rate, the
factor of a whole qkv (`test_two_steps_are_the_textbooks`); qkv as one matrix (there, and
`test_which_weights_are_muons`); gradients not divided by the scale (`test_gradients_are_divided`).
"""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from tests.train.models.test_simmim import SMALL
from tests.train.models.test_simmim_swin import SMALL as SWIN
from tests.train.models.test_simmim_swin import SMALL_V2
from torch import Tensor, nn

from turbomim.pipeline.system.errors import UserError
from turbomim.train.models.methods import make_model
from turbomim.train.optim.groups import matrices_in
from turbomim.train.optim.make import make_optimizer
from turbomim.train.optim.muon import Muon
from turbomim.train.optim.orthogonal import COEFFICIENTS, orthogonalised
from turbomim.train.optim.state import ADAM, MOMENTUM, kept_names
from turbomim.train.settings.config import Config
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig

SIZES: dict[str, Any] = {"patch": 8, "width": 32, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
TINY = Config(model=ModelConfig(depth=2, decoder_depth=1, **SIZES))
LEVELS = Config(model=ModelConfig(method="mff", depth=4, decoder_depth=1, fuse="0,3", **SIZES))


def newton_schulz(matrix_AB: Tensor, steps: int) -> Tensor:
    """The steps as they are written down, in float64."""
    matrix_AB = matrix_AB.double()
    x: Tensor = matrix_AB / matrix_AB.norm()
    for a, b, c in COEFFICIENTS[:steps]:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)], ids=str)
@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("steps", "least", "most"), [(3, 0.15, 1.87), (5, 0.85, 1.15), (7, 0.98, 1.02)])
def test_orthogonalised(
    shape: tuple[int, int], bfloat16: bool, steps: int, least: float, most: float
) -> None:
    """The polynomials' value, and so near the polar factor U V' of U S V'; a matrix of zeros stays."""
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    if bfloat16:
        # rounding is as large as the least singular values of a random matrix, and grows as they do
        u, s, v = torch.linalg.svd(matrices, full_matrices=False)
        matrices = u * torch.linspace(0.2, 1, s.shape[1]) @ v
    matrices[2] = 0.0
    found = orthogonalised(matrices.bfloat16() if bfloat16 else matrices, steps)
    assert not found[2].any()
    error = 0.03 * most if bfloat16 else 1e-5
    for matrix, made in zip(matrices[:2], found, strict=False):
        torch.testing.assert_close(made.double(), newton_schulz(matrix, steps), atol=error, rtol=0)
        u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        # small singular values come near 1 last
        large = s > 0.05 * s.norm()
        along = torch.diagonal(u.T @ made.double() @ v.T)[large]
        assert float(along.min()) > least - error and float(along.max()) < most + error


@pytest.mark.parametrize(("steps", "least", "most"), [(3, 0.15, 1.87), (5, 0.86, 1.14), (7, 0.999, 1.001)])
def test_where_singular_values_end(steps: int, least: float, most: float) -> None:
    """From 0.02 of a matrix's norm on: the figures of docs/training.md."""
    s = torch.logspace(math.log10(0.02), 0, 10_000, dtype=torch.float64)
    for a, b, c in COEFFICIENTS[:steps]:
        s = s * (a + b * s**2 + c * s**4)
    assert least < float(s.min()) and float(s.max()) < most


def test_the_coefficients_are_as_many_as_the_setting_allows() -> None:
    OptimConfig(name="muon", ns_steps=len(COEFFICIENTS))
    with pytest.raises(UserError, match=f"optim.ns_steps .*1 to {len(COEFFICIENTS)} steps"):
        OptimConfig(name="muon", ns_steps=len(COEFFICIENTS) + 1)


class Attention(nn.Module):
    """A fused qkv, a matrix wider than high, and a bias for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24, bias=False)
        self.fc = nn.Linear(24, 8)


@pytest.mark.parametrize("steps", [3, 5])
def test_two_steps_are_the_textbooks(steps: int) -> None:
    optim = OptimConfig(name="muon", weight_decay=0.3, momentum=0.9, base_lr=1.0, ns_steps=steps)
    model, generator = Attention(), torch.Generator().manual_seed(1)
    optimizer = make_optimizer(model, optim)
    weights = {name: param.detach().double().clone() for name, param in model.named_parameters()}
    momenta = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for rate in (0.1, 0.02):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, param in model.named_parameters():
            param.grad = torch.randn(param.shape, generator=generator)
            gradient, weight = param.grad.double(), weights[name]
            momenta[name] = 0.9 * momenta[name] + 0.1 * gradient
            wanted = 0.9 * momenta[name] + 0.1 * gradient
            weight.mul_(1 - 0.3 * rate)
            parts = matrices_in(name)
            for part, step in zip(weight.chunk(parts), wanted.chunk(parts), strict=True):
                if part.ndim == 2:
                    part.sub_(0.2 * math.sqrt(max(part.shape)) * rate * newton_schulz(step, steps))
        optimizer.step()
    for name in ("qkv.weight", "fc.weight"):
        param = model.get_parameter(name)
        torch.testing.assert_close(param.double(), weights[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            optimizer.state[param][MOMENTUM[0]].double(), momenta[name], atol=1e-6, rtol=1e-5
        )


def test_gradients_are_divided() -> None:
    """By grad_scale, as in a clipped step: momenta are a quarter of those without."""
    moments = []
    for scale in (1.0, 4.0):
        torch.manual_seed(0)
        model = Attention()
        optimizer = make_optimizer(model, OptimConfig(name="muon"))
        assert isinstance(optimizer, Muon)
        model.fc(model.qkv(torch.ones(2, 8))).square().sum().backward()
        optimizer.grad_scale = torch.tensor(scale)
        optimizer.step()
        moments.append([v for p in model.parameters() for k, v in optimizer.state[p].items() if k != "step"])
    for index, (whole, part) in enumerate(zip(*moments, strict=True)):
        # AdamW's second moment is of squares
        power = 2 if index == len(moments[0]) - 1 else 1
        torch.testing.assert_close(part * 4**power, whole)


def block(*names: str) -> set[str]:
    ends = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    return {f"{name}.#.{end}.weight" for name in names for end in ends}


VIT, DECODER = block("blocks"), block("decoder_blocks") | {"decoder_embed.weight"}
STAGES = block("layers.#.blocks") | {"layers.#.downsample.reduction.weight"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TINY, VIT | DECODER),
        (LEVELS, VIT | DECODER | {"proj_layers.#.weight"}),
        (SMALL, VIT),
        (SWIN, STAGES),
        (SMALL_V2, STAGES),
    ],
    ids=["mae", "mff", "simmim", "swin", "swinv2"],
)
def test_which_weights_are_muons(config: Config, expected: set[str]) -> None:
    """Linear layers, but not those that predict, nor those that make a Swin's positions."""
    model = make_model(config)
    keeps = kept_names(make_optimizer(model, OptimConfig(name="muon")))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert keeps.keys() == set(trained.values())
    muons = {name for name, param in trained.items() if keeps[param] == MOMENTUM}
    assert {re.sub(r"\b\d+\b", "#", name) for name in muons} == expected
    assert all((matrices_in(name) == 3) == ("qkv" in name) for name in muons)
    assert all(keeps[param] == ADAM for name, param in trained.items() if name not in muons)
