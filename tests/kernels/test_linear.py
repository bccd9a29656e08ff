"""Linear layers against float64: values, every gradient, and one compiled graph.

Which test fails for which mistake (each was made once, on purpose):
the weight's gradient transposed or the bias left out, a shape forgotten in the compiled form:
test_values_and_gradients_equal_float64;
oneDNN for other types, or under autocast: test_other_types_are_torch_s;
gradients for inputs that need none: test_what_needs_no_gradient_gets_none.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from turbomim.kernels import linear as module
from turbomim.kernels.linear import linear, product_op
from turbomim.train.models.vit import Linear, make_blocks, use_kernels


def tensors(rows: tuple[int, ...], inside: int, outside: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x, grad = torch.randn(*rows, inside, generator=g), torch.randn(*rows, outside, generator=g)
    weight, bias = torch.randn(outside, inside, generator=g), torch.randn(outside, generator=g)
    return x, weight, bias, grad


def gradients(function: object, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [each.clone().requires_grad_() for each in inputs]
    out = function(*leaves)  # type: ignore[operator]
    return (out.detach(), *torch.autograd.grad(out, leaves, grad))


@pytest.mark.parametrize(
    ("rows", "inside", "outside", "compiled"),
    [
        ((1,), 1, 1, False),
        ((3, 7), 5, 9, False),
        ((2, 50), 192, 576, False),
        ((5,), 768, 64, False),
        ((2, 3, 4), 63, 500, True),
    ],
    ids=str,
)
def test_values_and_gradients_equal_float64(
    rows: tuple[int, ...], inside: int, outside: int, compiled: bool
) -> None:
    *inputs, grad = tensors(rows, inside, outside)
    function = torch.compile(linear, fullgraph=True, dynamic=False) if compiled else linear
    ours = gradients(function, tuple(inputs), grad)
    exact = gradients(functional.linear, tuple(each.double() for each in inputs), grad.double())
    for mine, right in zip(ours, exact, strict=True):
        assert mine.dtype == torch.float32 and mine.shape == right.shape
        # sums of up to 768 products in float32
        torch.testing.assert_close(
            mine.double(), right, rtol=0, atol=2e-6 * max(1.0, float(right.abs().max()))
        )


def test_the_op_is_well_formed() -> None:
    x, weight, bias, _ = tensors((2, 3), 8, 5)
    inputs = (x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_())
    torch.library.opcheck(product_op, (*inputs, ""))
    # strides as the backward pass has them
    torch.library.opcheck(product_op, (x.detach().flatten(0, 1).t(), torch.randn(4, 6), None, ""))


@pytest.mark.skipif(not module.ONEDNN, reason="torch without oneDNN")
def test_float32_is_onednn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []

    def counted(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, source: str) -> Tensor:
        calls.append(x)
        return functional.linear(x, weight_OI, bias_O)

    monkeypatch.setattr(module, "product_op", counted)
    x, weight, bias, _ = tensors((4,), 8, 5)
    linear(x, weight, bias)
    assert len(calls) == 1


def test_other_types_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "product_op", None)
    x, weight, bias, _ = tensors((4,), 8, 5)
    assert linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert linear(x[:0], weight, bias).shape == (0, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight, bias, grad = tensors((4,), 8, 5)
    out = linear(x, weight.requires_grad_(), bias)
    with torch.profiler.profile() as profile:
        out.backward(grad)  # type: ignore[no-untyped-call]
    products = [event for event in profile.events() or () if event.name == "mkldnn::_linear_pointwise"]
    assert len(products) <= 1 and x.grad is None and weight.grad is not None


def test_every_linear_layer_of_a_block_is_replaced_and_keeps_its_name() -> None:
    blocks = make_blocks(2, 32, 4)
    names = list(blocks.state_dict())
    weights = [weight.clone() for weight in blocks.parameters()]
    use_kernels(blocks)
    layers = [each for each in blocks.modules() if isinstance(each, nn.Linear)]
    assert len(layers) == 8 and all(type(each) is Linear for each in layers)
    assert list(blocks.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(weights, blocks.parameters(), strict=True))
