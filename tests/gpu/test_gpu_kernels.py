"""The ops at the recipes' sizes against float64, and masks against the CPU's, bit for bit.

Which test fails for which mistake (each was made once, on purpose):
a wrong tap of the Gaussian, another epsilon: test_patches_equal_float64; a product's operands swapped:
test_linear_equals_float64; masks drawn from another word: test_masks_are_those_of_the_cpu.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.kernels.patches_float64 import Case, check, expected, inputs

from turbomim.kernels.linear import linear
from turbomim.kernels.masked_loss import masked_l1, masked_mse
from turbomim.kernels.masked_patches import masked_patches
from turbomim.kernels.masking import random_masking, random_masking_ref

# ViT-B/16 and L/16, H/14, LSMAE, SimMIM's ViT and Swin, the CIFAR-10 recipes, the demo
CASES = (
    Case(batch=4, size=224, patch=16, keep=49),
    Case(batch=4, size=224, patch=16, keep=49, target="gaussian"),
    Case(batch=4, size=224, patch=16, keep=49, target="ideal"),
    Case(batch=4, size=224, patch=14, keep=64),
    Case(batch=4, size=224, patch=14, keep=64, target="gaussian"),
    Case(batch=2, size=448, patch=16, keep=196, target="gaussian"),
    Case(batch=4, size=224, patch=16, keep=76, norm_pix=False),
    Case(batch=2, size=192, patch=4, keep=896, norm_pix=False),
    Case(batch=16, size=32, patch=4, keep=16, target="gaussian", radius=5.7),
    Case(batch=4, size=96, patch=8, keep=36, target="gaussian", radius=17),
)
# (units, kept) of the recipes
MASKS = ((196, 49), (144, 36), (256, 64), (64, 16), (36, 14), (49, 19), (784, 196))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_patches_equal_float64(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cpu":
        case = dataclasses.replace(case, batch=1)
    case = dataclasses.replace(case, dtype=dtype, target_dtype=dtype)
    images, ids_keep, ids_mask = inputs(case)
    visible, hidden = masked_patches(
        images.to(device),
        ids_keep.to(device),
        ids_mask.to(device),
        case.wanted,
        dtype=dtype,
        target_dtype=dtype,
    )
    check(case, visible, hidden, expected(case, images, ids_keep, ids_mask))


@pytest.mark.parametrize(("units", "keep"), MASKS)
def test_masks_are_those_of_the_cpu(units: int, keep: int, device: torch.device) -> None:
    samples = 4096 if device.type == "cuda" else 64
    ids = torch.arange(samples) * 2**20 + 7
    epochs = torch.arange(samples) % 800
    right = random_masking_ref(2**40 + 3, epochs, ids, units, keep)
    found = random_masking(2**40 + 3, epochs.to(device), ids.to(device), units, keep)
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, right, strict=True))
    assert torch.equal(torch.cat(right, 1).sort(1).values, torch.arange(units).expand(samples, -1))


def relative(found: torch.Tensor, right: torch.Tensor) -> float:
    """How far the one is from the other, as a share of it."""
    return float((found.cpu().double() - right).norm() / right.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_linear_equals_float64(dtype: torch.dtype, device: torch.device) -> None:
    """Forward and every gradient, of operands that are rounded to the type first."""
    generator = torch.Generator().manual_seed(0)
    rows = 8192 if device.type == "cuda" else 256
    shapes = ((rows, 768), (3072, 768), (3072,), (rows, 3072))
    x, weight, bias, slope = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    wide = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    torch.autograd.backward(torch.nn.functional.linear(*wide), slope.double())
    ours = [tensor.to(device).requires_grad_() for tensor in (x, weight, bias)]
    out = linear(*ours)
    torch.autograd.backward(out, slope.to(device))
    # TF32 would be 3e-4
    most = 1e-2 if dtype == torch.bfloat16 else 2e-6
    assert relative(out.detach(), torch.nn.functional.linear(*wide).detach()) < most
    for mine, right in zip(ours, wide, strict=True):
        assert mine.grad is not None and right.grad is not None
        assert relative(mine.grad, right.grad) < most


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_losses_equal_float64(dtype: torch.dtype, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (64, 147, 768) if device.type == "cuda" else (4, 147, 768)
    pred, target = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    for loss_fn, exact in (
        (masked_mse, torch.nn.functional.mse_loss),
        (masked_l1, torch.nn.functional.l1_loss),
    ):
        wide = pred.detach().double().requires_grad_()
        right = exact(wide, target.double())
        torch.autograd.backward(right)
        ours = pred.detach().to(device, copy=True).requires_grad_()
        loss = torch.compile(loss_fn, fullgraph=True)(ours, target.to(device))
        torch.autograd.backward(loss)
        assert wide.grad is not None and ours.grad is not None
        assert abs(float(loss.detach()) / float(right.detach()) - 1) < 1e-5
        assert relative(ours.grad, wide.grad) < (4e-3 if dtype == torch.bfloat16 else 1e-6)
