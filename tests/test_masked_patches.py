"""`masked_patches` away from a GPU: the reference, the op and the compiled op against float64.

Which test fails for which mistake (each was made once, on purpose):
a wrong tap, a repeated edge pixel, a reach of three sigma: test_gaussian_equals_torchvision;
the disc around the zero frequency, the real part for the modulus, a dropped sign, the zero frequency counted
twice: test_ideal_golden_vector; the frequency -S/2 counted twice: test_ideal_equals_fft;
products rounded under autocast: test_autocast_does_not_round_the_ideal_target;
a biased variance, columns before rows, ids_keep and ids_mask swapped, the encoder's patches filtered:
test_reference_equals_float64.
"""

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from patches_float64 import MEAN, STD, Case, blurred, check, disc_filtered, expected, inputs
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from turbomim.kernels.lowpass import gaussian_extent, gaussian_ref, ideal_disc, ideal_ref
from turbomim.kernels.masked_patches import has_kernel, masked_patches, masked_patches_op

CASES = (
    Case(batch=1, size=48, patch=8, keep=9),
    Case(batch=3, size=56, patch=14, keep=5, norm_pix=False, dtype=torch.bfloat16),
    Case(batch=1, size=96, patch=32, keep=2, dtype=torch.float16),
    Case(batch=3, size=48, patch=8, keep=9, target="gaussian", radius=9),
    Case(batch=1, size=96, patch=16, keep=1, target="gaussian", radius=17, norm_pix=False),
    Case(batch=1, size=56, patch=14, keep=15, target="gaussian", radius=4, dtype=torch.bfloat16),
    Case(batch=3, size=48, patch=16, keep=2, target="ideal", radius=9, norm_pix=False),
    Case(batch=1, size=224, patch=16, keep=49, target="ideal", radius=40),
)


def run(case: Case, function: Any, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    visible, target = function(
        *tensors,
        patch=case.patch,
        target=case.target,
        radius=case.radius,
        norm_pix=case.norm_pix,
        mean=MEAN,
        std=STD,
        dtype=case.dtype,
    )
    return visible, target


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_equals_float64(case: Case) -> None:
    tensors = inputs(case)
    check(case, *run(case, masked_patches, tensors), expected(case, *tensors))


@pytest.mark.parametrize("index", [1, 3, 7])
def test_compiled_equals_float64(index: int) -> None:
    case = CASES[index]
    tensors = inputs(case)
    compiled = torch.compile(masked_patches, fullgraph=True)
    check(case, *run(case, compiled, tensors), expected(case, *tensors))


@pytest.mark.parametrize("index", [1, 3, 6])
def test_opcheck(index: int) -> None:
    case = CASES[index]
    numbers = (case.patch, case.target, float(case.radius), case.norm_pix, list(MEAN), list(STD), case.dtype)
    torch.library.opcheck(masked_patches_op, (*inputs(case), *numbers))


def test_target_has_unit_mean_square() -> None:
    case = Case(batch=2, size=48, patch=16, keep=3)
    _, target = run(case, masked_patches, inputs(case))
    # 767/768: the variance is unbiased, the mean square is not.
    torch.testing.assert_close(target.square().mean(-1), torch.full((2, 6), 767 / 768), rtol=1e-4, atol=0)


@pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"])
def test_flat_image_has_a_zero_target(target: Literal["raw", "gaussian", "ideal"]) -> None:
    case = Case(batch=1, size=48, patch=8, keep=9, target=target, radius=9)
    _, ids_keep, ids_mask = inputs(case)
    images = torch.full((1, 48, 48, 3), 255, dtype=torch.uint8)
    # Gray in 0..1 units, so that the channels agree after mean and std.
    visible, hidden = masked_patches(
        images, ids_keep, ids_mask, patch=8, target=target, radius=9, norm_pix=True, mean=(0.5,) * 3,
        std=(0.5,) * 3, dtype=torch.float32,
    )  # fmt: skip
    assert torch.all(visible == 1)
    # The square root of 1e-6 magnifies float32 rounding a thousand times.
    assert hidden.abs().max() < 2e-3


@pytest.mark.parametrize(("size", "radius"), [(48, 9), (56, 4), (96, 17), (224, 40), (57, 57)])
def test_gaussian_equals_torchvision(size: int, radius: float) -> None:
    images, _, _ = inputs(Case(batch=2, size=size, patch=1, keep=1))
    torch.testing.assert_close(
        gaussian_ref(images, radius).double(), blurred(images.double() / 255, radius), rtol=0, atol=1e-6
    )


def test_gaussian_covers_four_sigma() -> None:
    sigma, reach = gaussian_extent(224, 40)
    assert sigma == pytest.approx(0.8912677)
    assert reach == 4


@pytest.mark.parametrize(
    ("radius", "ones"),
    [(10, 316), (20, 1264), (30, 2828), (40, 5024), (50, 7860), (60, 11304), (80, 20108), (112, 39428)],
)
def test_ideal_disc_sums(radius: float, ones: int) -> None:
    assert int(ideal_disc(224, radius).sum()) == ones


@pytest.mark.parametrize(
    ("size", "radius"), [(48, 9), (49, 9), (48, 24), (49, 24.5), (16, 100), (224, 40), (48, 0.8)]
)
def test_ideal_equals_fft(size: int, radius: float) -> None:
    images, _, _ = inputs(Case(batch=2, size=size, patch=1, keep=1))
    want = torch.from_numpy(disc_filtered(images.double().numpy() / 255, radius))
    torch.testing.assert_close(ideal_ref(images, radius).double(), want, rtol=0, atol=3e-6)


def test_ideal_golden_vector() -> None:
    c, y, x = torch.arange(3), torch.arange(224)[:, None, None], torch.arange(224)[:, None]
    images = ((7 * x + 13 * y + 29 * c + (x * y) % 31) % 256).to(torch.uint8)[None]
    filtered = ideal_ref(images, 40)[0].double()
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


@pytest.mark.parametrize("cycles", [39, 40, 41])
def test_ideal_cuts_off_between_39_and_41_cycles(cycles: int) -> None:
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(224, dtype=torch.float64) / 224)
    images = (127.5 + 63.75 * wave)[None, None, :, None].expand(1, 224, 224, 3).round().to(torch.uint8)
    filtered = ideal_ref(images, 40) - 0.5
    low, high = {39: (0.24, 0.26), 40: (0.115, 0.135), 41: (0.0, 0.01)}[cycles]
    assert low < filtered.abs().max() < high


def test_autocast_does_not_round_the_ideal_target() -> None:
    images, _, _ = inputs(Case(batch=1, size=48, patch=8, keep=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = ideal_ref(images, 9)
    assert torch.equal(under_autocast, ideal_ref(images, 9))


@pytest.mark.parametrize(("target", "launches"), [("raw", 1), ("gaussian", 1), ("ideal", 0)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_launch_on_a_gpu(target: Literal["raw", "gaussian", "ideal"], launches: int) -> None:
    case = Case(batch=3, size=224, patch=16, keep=49, target=target)
    graphs: list[torch.fx.GraphModule] = []

    def keep_graph(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    backend = aot_autograd(fw_compiler=keep_graph)
    with FakeTensorMode():
        images = torch.empty(3, 224, 224, 3, dtype=torch.uint8, device="cuda")
        ids_keep, ids_mask = (torch.empty(3, n, dtype=torch.int64, device="cuda") for n in (49, 147))
        function = torch.compile(masked_patches, fullgraph=True, backend=backend)
        visible, hidden = run(case, function, (images, ids_keep, ids_mask))
    assert (visible.shape, hidden.shape) == ((3, 49, 768), (3, 147, 768))
    names = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("triton_kernel_wrapper" in name for name in names) == launches


def test_the_kernel_leaves_wide_blurs_to_the_reference() -> None:
    assert has_kernel(224, 16, "gaussian", 40)
    assert not has_kernel(224, 16, "gaussian", 5)
    assert not has_kernel(224, 56, "raw", 40)
    assert not has_kernel(224, 16, "ideal", 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 48, 48, 3)}, "images are"),
        ({"images": torch.zeros(2, 48, 40, 3, dtype=torch.uint8)}, "images are"),
        ({"patch": 7}, "patch is 7"),
        ({"ids_mask": torch.zeros(3, 4, dtype=torch.int64)}, "ids_mask is"),
        ({"ids_keep": torch.zeros(2, 4, dtype=torch.int32)}, "ids_keep is"),
        ({"target": "sharp"}, 'target is "sharp"'),
        ({"target": "gaussian", "radius": 0.5}, "radius is 0.5"),
        ({"target": "gaussian", "radius": -1.0}, "radius is -1"),
        ({"target": "ideal", "radius": 0.7}, r"at least 0\.707"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
        ({"dtype": torch.int32}, "dtype is"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_bad_arguments_name_the_value(change: dict[str, Any], message: str) -> None:
    images, ids_keep, ids_mask = inputs(Case(batch=2, size=48, patch=8, keep=9))
    arguments: dict[str, Any] = {
        "images": images, "ids_keep": ids_keep, "ids_mask": ids_mask, "patch": 8, "target": "raw",
        "radius": 9.0, "norm_pix": True, "mean": MEAN, "std": STD, "dtype": torch.float32,
    } | change  # fmt: skip
    tensors = [arguments.pop(name) for name in ("images", "ids_keep", "ids_mask")]
    with pytest.raises(ValueError, match=message):
        masked_patches(*tensors, **arguments)
