"""Attention against float64: values and every gradient, alone, in timm's block, compiled and computed again.

Which test fails for which mistake (each was made once, on purpose): the scale left out of one gradient, a
transposition forgotten, the row's sum left out of the softmax's gradient:
test_bfloat16_on_a_cpu_is_one_rounding_from_torch_s; our form in float32: test_float32_is_torch_s;
queries and keys exchanged in the layer: test_the_layer_is_timm_s.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers.attention import Attention as TimmAttention
from torch import Tensor
from torch.nn import functional

from turbomim.kernels import attention as module
from turbomim.kernels.attention import attention
from turbomim.train.models.vit import Attention, use_kernels

Function = Callable[[Tensor, Tensor, Tensor], Tensor]


def tensors(shape: tuple[int, int, int, int]) -> list[Tensor]:
    """q, k, v and the output's gradient, of numbers that bfloat16 has, as a layer's strides lay them."""
    batch, heads, tokens, width = shape
    g = torch.Generator().manual_seed(0)
    laid = torch.randn(batch, tokens, 4, heads, width, generator=g).bfloat16()
    return list(laid.permute(2, 0, 3, 1, 4).unbind())


def results(function: Function, dtype: torch.dtype, inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of q, k and v."""
    *leaves, grad = (each.detach().to(dtype).requires_grad_() for each in inputs)
    out = function(*leaves)
    assert out.dtype == dtype
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.detach())]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("shape", "compiled"),
    [((2, 3, 17, 16), False), ((1, 2, 50, 64), False), ((2, 3, 17, 16), True)],
    ids=str,
)
def test_bfloat16_on_a_cpu_is_one_rounding_from_torch_s(
    shape: tuple[int, int, int, int], compiled: bool
) -> None:
    inputs = tensors(shape)
    function = torch.compile(attention, fullgraph=True, dynamic=False) if compiled else attention
    ours = results(function, torch.bfloat16, inputs)
    torchs = results(functional.scaled_dot_product_attention, torch.bfloat16, inputs)
    exact = results(functional.scaled_dot_product_attention, torch.float64, inputs)
    for mine, other, right in zip(ours, torchs, exact, strict=True):
        assert mine.shape == right.shape
        # torch's keeps logits in float32; one more rounding of them is half a unit of 2^-8 of each
        assert error(mine, right) < error(other, right) + 2**-8 < 2**-7


def test_one_token_sees_itself() -> None:
    q, k, v, grad = tensors((2, 3, 1, 16))
    out, _, _, for_v = results(attention, torch.bfloat16, [q, k, v, grad])
    assert torch.equal(out, v) and torch.equal(for_v, grad)


def test_large_logits_stay_finite() -> None:
    q, k, v, grad = tensors((1, 1, 9, 16))
    found = results(attention, torch.bfloat16, [100 * q, 100 * k, v, grad])
    assert all(bool(each.isfinite().all()) for each in found)


def test_float32_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_Attention", None)
    inputs = tensors((2, 3, 17, 16))
    ours = results(attention, torch.float32, inputs)
    torchs = results(functional.scaled_dot_product_attention, torch.float32, inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))


def test_the_layer_is_timm_s() -> None:
    layer, x = TimmAttention(48, num_heads=3, qkv_bias=True), torch.randn(2, 17, 48)
    names, right = list(layer.state_dict()), layer(x)
    use_kernels(layer)
    assert type(layer) is Attention and list(layer.state_dict()) == names
    torch.testing.assert_close(layer(x), right, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), right, rtol=0, atol=0.01)
