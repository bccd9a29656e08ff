"""The published low-pass filter away from a GPU, against numpy's FFT in float64.

Which test fails for which mistake (each was made once, on purpose):
the disc around the zero frequency, the real part for the modulus, a dropped sign, the zero frequency counted
twice: test_ideal_golden_vector; the frequency -S/2 counted twice: test_ideal_equals_fft;
products rounded under autocast: test_autocast_does_not_round;
products of the kernels in TF32: test_kernels_ask_for_float32.
"""

from typing import Any

import pytest
import torch
import triton
from tests.kernels.patches_float64 import Case, disc_filtered, inputs, shifted_disc
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from turbomim.kernels import ideal
from turbomim.kernels.ideal import ideal_ref, ideal_rows
from turbomim.kernels.masked_patches import targets_of_whole_images


def pictures(size: int, batch: int = 2) -> Tensor:
    return inputs(Case(batch=batch, size=size, patch=1, keep=1))[0]


@pytest.mark.parametrize(
    ("radius", "ones"),
    [
        (10, 316),
        (20, 1264),
        (30, 2828),
        (40, 5024),
        (50, 7860),
        (60, 11304),
        (80, 20108),
        (100, 31428),
        (112, 39428),
    ],
)
def test_ideal_disc_sums(radius: float, ones: int) -> None:
    """Of the disc that every expected value here is made with."""
    assert int(shifted_disc(224, radius).sum()) == ones


@pytest.mark.parametrize(
    ("size", "radius"), [(48, 9), (49, 9), (48, 24), (49, 24.5), (16, 100), (224, 40), (48, 0.8)]
)
def test_ideal_equals_fft(size: int, radius: float) -> None:
    images = pictures(size)
    want = torch.from_numpy(disc_filtered(images.double().numpy() / 255, radius))
    torch.testing.assert_close(ideal_ref(images, radius).double(), want, rtol=0, atol=3e-6)


def test_ideal_golden_vector() -> None:
    filtered = ideal_ref(golden_images(), 40)[0].double()
    got = [
        filtered.mean(),
        filtered.std(correction=0),
        *filtered[0, 0],
        *filtered[100, 50:53, 0],
        filtered[223, 223, 2],
    ]
    want = [
        0.5001449116,
        0.2519449694,
        0.16184803,
        0.32879750,
        0.35373172,
        0.50671302,
        0.53122627,
        0.56153776,
        0.56923799,
    ]
    assert [float(value) for value in got] == pytest.approx(want, abs=1e-6)


def golden_images() -> Tensor:
    c, y, x = torch.arange(3), torch.arange(224)[:, None, None], torch.arange(224)[:, None]
    return ((7 * x + 13 * y + 29 * c + (x * y) % 31) % 256).to(torch.uint8)[None]


def golden_targets(*, norm_pix: bool) -> Tensor:
    """Every patch's target (196, 768) float64."""
    case = Case(batch=1, size=224, patch=16, keep=1, target="ideal", radius=40, norm_pix=norm_pix)
    target, _ = targets_of_whole_images(golden_images(), case.wanted)
    return target[0].double()


def test_ideal_golden_vector_as_a_target() -> None:
    """After normalisation by channel, and by patch."""
    pixels = golden_targets(norm_pix=False)
    first = [float(value) for value in pixels[0, :3]]
    assert first == pytest.approx([-1.41114402, -0.56786829, -0.23230342], abs=2e-6)
    # row 17, column 200, green
    assert float(pixels[14 + 12, (1 * 16 + 8) * 3 + 1]) == pytest.approx(0.10865588, abs=2e-6)
    assert float(pixels.sum()) == pytest.approx(34199.4058, abs=0.05)
    assert float(pixels[0].mean()) == pytest.approx(0.38726491, abs=2e-6)
    assert float(pixels[0].var()) == pytest.approx(1.21811315, abs=4e-6)
    normed = golden_targets(norm_pix=True)
    want = [-1.62946281, -0.86540609, -0.56136484, -1.62376816, -0.93783127, -0.69950154]
    assert [float(value) for value in normed[0, :6]] == pytest.approx(want, abs=1e-5)
    assert float(normed[100, -1]) == pytest.approx(-0.00147081, abs=2e-6)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_constant_image_passes_unchanged(level: int) -> None:
    images = torch.full((1, 224, 224, 3), level, dtype=torch.uint8)
    assert float((ideal_ref(images, 40) - level / 255).abs().max()) < 1e-6


@pytest.mark.parametrize("cycles", [39, 40, 41])
def test_ideal_cuts_off_between_39_and_41_cycles(cycles: int) -> None:
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(224, dtype=torch.float64) / 224)
    images = (127.5 + 63.75 * wave)[None, None, :, None].expand(1, 224, 224, 3).round().to(torch.uint8)
    filtered = ideal_ref(images, 40) - 0.5
    low, high = {39: (0.24, 0.26), 40: (0.115, 0.135), 41: (0.0, 0.01)}[cycles]
    assert low < filtered.abs().max() < high


def test_autocast_does_not_round() -> None:
    images = pictures(48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = ideal_ref(images, 9)
    assert torch.equal(under_autocast, ideal_ref(images, 9))


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_torch_settings_do_not_round(precision: str) -> None:
    images = pictures(224)
    want = torch.from_numpy(disc_filtered(images.double().numpy() / 255, 40))
    torch.set_float32_matmul_precision(precision)
    try:
        got = ideal_ref(images, 40)
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-5)


def to_tf32(x: Tensor) -> Tensor:
    """Round float32 to TF32's 10 bits after the point."""
    bits = x.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def tf32(a: Tensor, b: Tensor) -> Tensor:
    return to_tf32(a) @ to_tf32(b)


def three_tf32(a: Tensor, b: Tensor) -> Tensor:
    """What Triton makes of input_precision="tf32x3"."""
    a_low, b_low = (x.float() - to_tf32(x) for x in (a, b))
    return tf32(a_low, b) + tf32(a, b_low) + tf32(a, b)


def test_three_tf32_products_are_enough_and_one_is_not() -> None:
    images = pictures(224)
    want = torch.from_numpy(disc_filtered(images.double().numpy() / 255, 40)).permute(0, 3, 1, 2)
    errors = []
    for product in (three_tf32, tf32):
        real, imag, waves = ideal_rows(images, 40, product)
        modulus = torch.hypot(product(real, waves), product(imag, waves)).double() / (255 * 224**2)
        errors.append(float((modulus - want).abs().max()))
    assert errors[0] < 2e-5, errors
    assert errors[1] > 5e-5, errors


PRODUCT = ("*fp32", "*u8", "*fp32", *["i32"] * 12)
PATCHES = ("*fp32", "*fp32", "*fp32", "*i64", "*bf16", "i32", *["fp32"] * 6)


def constants_of(patch: int) -> dict[str, int]:
    return ideal.ideal_constants(224, Case(batch=1, size=224, patch=patch, keep=1, target="ideal").wanted)


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize(
    ("kernel", "types", "constants"),
    [
        (ideal._product_kernel, PRODUCT, ideal.product_constants()),
        (ideal._ideal_patches_kernel, PATCHES, constants_of(16)),
        (ideal._ideal_patches_kernel, PATCHES, constants_of(14)),
        (ideal._ideal_patches_kernel, PATCHES, constants_of(32)),
    ],
    ids=["product", "patch 16", "patch 14", "patch 32"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kernels_ask_for_float32(
    kernel: Any, types: tuple[str, ...], constants: dict[str, int], architecture: int
) -> None:
    constants = dict(constants)
    warps = constants.pop("num_warps")
    run_time = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(run_time, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        kernel, signature={name: signature[name] for name in kernel.arg_names}, constexprs=constants
    )
    target = GPUTarget("cuda", architecture, 32)
    lines = triton.compile(source, target=target, options={"num_warps": warps}).asm["ttir"].splitlines()
    products = [line for line in lines if "tt.dot " in line]
    assert products
    assert all("inputPrecision = tf32x3" in line for line in products), products
