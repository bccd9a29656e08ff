"""The masked losses against float64, and their gradients against finite differences.

Which test fails for which mistake (each was made once, on purpose):
differences or sums in the prediction's type, a sum for a mean, one loss for the other:
test_loss_and_gradient_equal_float64; |x| as the root of the square: test_one_compiled_graph;
a target of another shape broadcast: test_refuses_what_would_be_broadcast.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from turbomim.kernels.masked_loss import masked_l1, masked_mse

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES = {"mse": masked_mse, "l1": masked_l1}
both = pytest.mark.parametrize("name", LOSSES)
# 14 * 14 * 3 is no power of two; 4 * 4 * 3 is SimMIM's with Swin
shapes = pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 588), (2, 147, 768), (2, 1408, 48)], ids=str)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def tensors(shape: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, *shape, generator=generator)
    return (pred + 3).to(dtype).requires_grad_(), target


def by_hand(name: str, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient in float64, patch by patch."""
    difference = pred.detach().double() - target.double()
    batch, masked, values = difference.shape
    if name == "mse":
        error, slope = difference * difference, 2 * difference
    else:
        error, slope = difference.abs(), difference.sign()
    per_patch = error.sum(-1) / values
    return per_patch.sum() / (batch * masked), slope / (batch * masked * values)


def check(name: str, loss_fn: Loss, pred: Tensor, target: Tensor) -> None:
    """Compare the loss and a quarter of its gradient with float64."""
    loss = loss_fn(pred, target)
    torch.autograd.backward(loss * 0.25)
    expected, gradient = by_hand(name, pred, target)
    assert loss.shape == () and loss.dtype == torch.float32
    # float32 sums of up to 225,000 values
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=0)
    assert pred.grad is not None and pred.grad.dtype == pred.dtype
    # one rounding to the prediction's type; float16 ends in steps of 6e-8
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[pred.dtype]
    smallest = 6e-8 if pred.dtype == torch.float16 else 0
    torch.testing.assert_close(pred.grad.double(), gradient / 4, rtol=rounding, atol=smallest)


@both
@shapes
@dtypes
def test_loss_and_gradient_equal_float64(name: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    pred, target = tensors(shape, dtype)
    check(name, LOSSES[name], pred, target)


@both
@pytest.mark.parametrize("target_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_compiled_graph(name: str, target_dtype: torch.dtype) -> None:
    pred, target = tensors((3, 5, 588), torch.bfloat16)
    check(name, torch.compile(LOSSES[name], fullgraph=True), pred, target.to(target_dtype))


@both
def test_gradient_is_the_slope(name: str) -> None:
    pred, target = tensors((2, 3, 7), torch.float64)
    assert torch.autograd.gradcheck(LOSSES[name], (pred, target.double()))
    assert LOSSES[name](pred, target).dtype == torch.float64


@both
def test_equal_patches_have_no_loss_and_no_gradient(name: str) -> None:
    pred, _ = tensors((2, 3, 7), torch.float32)
    loss = LOSSES[name](pred, pred.detach().clone())
    torch.autograd.backward(loss)
    assert pred.grad is not None
    assert loss.item() == 0 and pred.grad.eq(0).all()


@both
def test_autocast_does_not_narrow_it(name: str) -> None:
    pred, target = tensors((3, 5, 588), torch.bfloat16)
    plain = LOSSES[name](pred, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert LOSSES[name](pred, target).equal(plain)


@both
@pytest.mark.parametrize("shape", [(2, 3, 1), (1, 3, 7), (3, 7), (2, 7, 3)], ids=str)
def test_refuses_what_would_be_broadcast(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"prediction is \(2, 3, 7\) and target .* one shape"):
        LOSSES[name](torch.zeros(2, 3, 7), torch.zeros(shape))


@both
def test_refuses_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="at least one value"):
        LOSSES[name](torch.zeros(2, 0, 7), torch.zeros(2, 0, 7))
