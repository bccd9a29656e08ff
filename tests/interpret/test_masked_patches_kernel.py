"""The `masked_patches` kernel against float64: in Triton's interpreter (TRITON_INTERPRET=1), or on a GPU.

Which test fails for which mistake (each was made once, on purpose):
a wrong tap, a halo off by one, a repeated edge pixel, the low half of the taps or of the first blur left out,
rows and columns swapped, channels in another order, a biased variance, padding in the mean, another epsilon,
ids_keep and ids_mask swapped, a last value not stored, the last waves of a disc left out, the real part for
the modulus: test_kernel_equals_float64;
the last rows, columns or terms of a product, its operands' strides mixed up: test_product_equals_torch;
a patch outside the image not marked: test_a_patch_outside_the_image_is_nan;
no epsilon: test_flat_image_has_a_zero_target.
Only a GPU can show an image offset in 32 bits: test_offsets_pass_two_gigabytes.
"""

import dataclasses
import os

import pytest
import torch
from tests.kernels.patches_float64 import MEAN, STD, Case, check, expected, inputs
from torch import Tensor

from turbomim.kernels.ideal import _launch_product
from turbomim.kernels.masked_patches import _launch_masked_patches, masked_patches
from turbomim.kernels.patch_target import TargetKind

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRET else "cuda"
NO_GPU = not INTERPRET and not torch.cuda.is_available()

pytestmark = (
    pytest.mark.interpret
    if INTERPRET
    else [pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="needs a CUDA device")]
)

CASES = (
    Case(batch=1, size=48, patch=8, keep=9),
    Case(batch=3, size=56, patch=14, keep=5, norm_pix=False, dtype=torch.bfloat16),
    Case(batch=1, size=96, patch=32, keep=2, dtype=torch.bfloat16),
    Case(batch=1, size=224, patch=16, keep=49, norm_pix=False),
    Case(batch=3, size=48, patch=4, keep=140, target="gaussian", radius=9),
    Case(
        batch=1, size=48, patch=8, keep=9, target="gaussian", radius=9, norm_pix=False, dtype=torch.bfloat16
    ),
    Case(batch=3, size=56, patch=14, keep=5, target="gaussian", radius=10),
    Case(batch=1, size=48, patch=12, keep=4, target="gaussian", radius=4, norm_pix=False),
    Case(batch=1, size=96, patch=32, keep=2, target="gaussian", radius=17),
    Case(batch=1, size=32, patch=16, keep=1, target="gaussian", radius=2.2, norm_pix=False),
    Case(batch=1, size=224, patch=16, keep=49, target="gaussian", radius=40),
    Case(batch=1, size=224, patch=16, keep=195, target="gaussian", radius=40, norm_pix=False),
    Case(batch=64, size=16, patch=4, keep=4, target="gaussian", radius=4, target_dtype=torch.float16),
    Case(batch=3, size=63, patch=7, keep=20, target="gaussian", radius=13, target_dtype=torch.bfloat16),
    Case(batch=3, size=48, patch=4, keep=100, target="ideal", radius=9),
    Case(batch=3, size=45, patch=9, keep=5, target="ideal", radius=9, norm_pix=False),
    Case(batch=1, size=56, patch=14, keep=5, target="ideal", radius=10, target_dtype=torch.bfloat16),
    Case(batch=1, size=96, patch=32, keep=2, target="ideal", radius=17, dtype=torch.bfloat16),
    Case(batch=1, size=224, patch=16, keep=186, target="ideal", radius=40),
)


@pytest.fixture
def nan_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch.empty return NaN, so that an unwritten output fails."""
    monkeypatch.setattr(
        torch,
        "empty",
        lambda shape, *, dtype, device: torch.full(shape, float("nan"), dtype=dtype, device=device),
    )


def launch(case: Case, images: Tensor, ids_keep: Tensor, ids_mask: Tensor) -> tuple[Tensor, Tensor]:
    tensors = (images.to(DEVICE), ids_keep.to(DEVICE), ids_mask.to(DEVICE))
    return _launch_masked_patches(*tensors, case.wanted, case.dtype, case.target_dtype)


@pytest.mark.usefixtures("nan_filled")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_equals_float64(case: Case) -> None:
    tensors = inputs(case)
    check(case, *launch(case, *tensors), expected(case, *tensors))


@pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"])
def test_flat_image_has_a_zero_target(target: TargetKind) -> None:
    case = Case(batch=1, size=48, patch=8, keep=9, target=target, radius=9, norm_pix=False)
    _, ids_keep, ids_mask = inputs(case)
    images = torch.full((1, 48, 48, 3), 255, dtype=torch.uint8)
    _, plain = launch(case, images, ids_keep, ids_mask)
    white = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(plain.cpu(), white.repeat(64).expand(1, 27, 192), rtol=0, atol=5e-6)
    gray = torch.full_like(images, 51)
    wanted = dataclasses.replace(case.wanted, norm_pix=True, mean=(0.5,) * 3, std=(0.5,) * 3)
    tensors = (gray.to(DEVICE), ids_keep.to(DEVICE), ids_mask.to(DEVICE))
    _, flat = _launch_masked_patches(*tensors, wanted, torch.float32, torch.float32)
    # The square root of 1e-6 magnifies float32 rounding a thousand times.
    assert flat.abs().max() < 2e-3


@pytest.mark.usefixtures("nan_filled")
@pytest.mark.parametrize(("rows", "terms", "columns"), [(82, 57, 82), (3, 130, 65), (64, 16, 64), (65, 1, 1)])
def test_product_equals_torch(rows: int, terms: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(terms, rows, generator=generator).T
    b = torch.randint(0, 256, (2, terms, columns, 3), dtype=torch.uint8, generator=generator)
    b = b.permute(0, 3, 1, 2)
    want = a.double() @ b.double()
    got = _launch_product(a.to(DEVICE), b.to(DEVICE))
    torch.testing.assert_close(got.cpu().double(), want, rtol=0, atol=5e-7 * 255 * terms)
    # The other way round, a stack comes first.
    got = _launch_product(b.mT.to(DEVICE), a.T.to(DEVICE))
    torch.testing.assert_close(got.cpu().double(), want.mT, rtol=0, atol=5e-7 * 255 * terms)


@pytest.mark.usefixtures("nan_filled")
@pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"])
def test_a_patch_outside_the_image_is_nan(target: TargetKind) -> None:
    case = Case(batch=1, size=48, patch=8, keep=2, target=target, radius=9)
    images, _, _ = inputs(case)
    ids_keep, ids_mask = torch.tensor([[0, 36]]), torch.tensor([[-1, 35, 2**40]])
    visible, hidden = launch(case, images, ids_keep, ids_mask)
    assert visible.isnan().all(-1).tolist() == [[False, True]]
    assert hidden.isnan().all(-1).tolist() == [[True, False, True]]
    assert not visible[0, 0].isnan().any()
    assert not hidden[0, 1].isnan().any()


@pytest.mark.usefixtures("nan_filled")
@pytest.mark.parametrize("target", ["gaussian", "ideal"])
@pytest.mark.parametrize("kept", [0, 36])
def test_all_or_nothing_visible(kept: int, target: TargetKind) -> None:
    case = Case(batch=1, size=48, patch=8, keep=kept, target=target, radius=9)
    images, ids_keep, ids_mask = inputs(case)
    visible, hidden = launch(case, images, ids_keep, ids_mask)
    assert (visible.shape, hidden.shape) == ((1, kept, 192), (1, 36 - kept, 192))
    assert not visible.isnan().any()
    assert not hidden.isnan().any()


if not INTERPRET:

    def test_offsets_pass_two_gigabytes() -> None:
        images = torch.zeros(15000, 224, 224, 3, dtype=torch.uint8, device=DEVICE)
        images[-1] = 255
        ids = torch.zeros(15000, 1, dtype=torch.int64, device=DEVICE)
        case = Case(batch=15000, size=224, patch=16, keep=1, norm_pix=False)
        wanted = dataclasses.replace(case.wanted, mean=(0.0,) * 3, std=(1.0,) * 3)
        visible, _ = _launch_masked_patches(images, ids, ids, wanted, torch.bfloat16, torch.float32)
        assert visible[-1].eq(1).all()
        assert visible[:-1].eq(0).all()

    @pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"])
    def test_compiled_op_on_a_gpu(target: TargetKind) -> None:
        case = Case(batch=3, size=96, patch=16, keep=9, target=target, radius=17, dtype=torch.bfloat16)
        tensors = inputs(case)
        images, ids_keep, ids_mask = (tensor.to(DEVICE) for tensor in tensors)
        visible, hidden = torch.compile(masked_patches, fullgraph=True)(
            images, ids_keep, ids_mask, case.wanted, dtype=torch.bfloat16
        )
        check(case, visible, hidden, expected(case, *tensors))
