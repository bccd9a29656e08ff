"""`masked_patches` away from a GPU: the reference, the op and the compiled op against float64.

Which test fails for which mistake (each was made once, on purpose):
a wrong tap, a repeated edge pixel, a reach of three sigma: test_gaussian_equals_torchvision;
a biased variance, no epsilon, columns before rows, channels in another order, ids_keep and ids_mask swapped,
the encoder's patches filtered, a target not cast: test_reference_equals_float64;
no epsilon: test_flat_image_has_a_zero_target;
a number outside the image clamped, or wrapped: test_a_patch_outside_the_image_is_nan;
an op without its source as an argument: test_another_source_is_compiled_again;
a size that is guarded for each batch: test_one_compilation_for_all_batches;
a matrix product of torch's, numbers copied from the host: test_launches_on_a_gpu;
a window without its halo: test_bytes_of_pixmim.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kernels.patches_float64 import MEAN, STD, Case, blurred, check, expected, inputs
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

from turbomim.kernels import masked_patches as module
from turbomim.kernels.lowpass import gaussian_extent, gaussian_ref
from turbomim.kernels.masked_patches import has_kernel, masked_patches, masked_patches_op
from turbomim.kernels.patch_target import PatchTarget, TargetKind
from turbomim.kernels.source import SOURCE

CASES = (
    Case(batch=1, size=48, patch=8, keep=9),
    Case(batch=3, size=56, patch=14, keep=5, norm_pix=False, dtype=torch.bfloat16),
    Case(batch=1, size=96, patch=32, keep=2, dtype=torch.float16, target_dtype=torch.bfloat16),
    Case(batch=3, size=48, patch=8, keep=9, target="gaussian", radius=9),
    Case(batch=1, size=96, patch=16, keep=1, target="gaussian", radius=17, norm_pix=False),
    Case(batch=1, size=56, patch=14, keep=15, target="gaussian", radius=4, dtype=torch.bfloat16),
    Case(batch=3, size=48, patch=16, keep=2, target="ideal", radius=9, norm_pix=False),
    Case(batch=1, size=224, patch=16, keep=49, target="ideal", radius=40),
    Case(batch=64, size=16, patch=4, keep=4, target="gaussian", radius=4, target_dtype=torch.float16),
    Case(batch=3, size=63, patch=7, keep=20, target="gaussian", radius=13),
    Case(batch=3, size=45, patch=3, keep=20, target="ideal", radius=9, target_dtype=torch.bfloat16),
)


def run(case: Case, function: Any, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    visible, target = function(*tensors, case.wanted, dtype=case.dtype, target_dtype=case.target_dtype)
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


@pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"])
def test_one_compilation_for_all_batches(target: TargetKind) -> None:
    compilations = 0

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        nonlocal compilations
        compilations += 1
        return graph.forward

    torch._dynamo.reset()
    static = torch.compile(masked_patches, fullgraph=True, backend=count)
    for _ in range(3):
        run(Case(batch=3, size=48, patch=8, keep=9, target=target, radius=9), static, inputs(CASES[0]))
    assert compilations == 1
    torch._dynamo.reset()
    dynamic = torch.compile(masked_patches, fullgraph=True, dynamic=True, backend=count)
    for batch in (2, 3, 5):
        case = Case(batch=batch, size=48, patch=8, keep=9, target=target, radius=9)
        tensors = inputs(case)
        check(case, *run(case, dynamic, tensors), expected(case, *tensors))
    assert compilations == 2


def test_another_source_is_compiled_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    case = Case(batch=1, size=48, patch=8, keep=9)
    tensors = inputs(case)

    def compiled() -> Tensor:
        torch._dynamo.reset()
        return run(case, torch.compile(masked_patches, fullgraph=True), tensors)[0]

    before = compiled()
    reference = module.masked_patches_ref
    # An upgrade changes the body and, with it, the source.
    monkeypatch.setattr(module, "masked_patches_ref", lambda *a: tuple(out + 1 for out in reference(*a)))
    monkeypatch.setattr(module, "SOURCE", "another")
    torch.testing.assert_close(compiled(), before + 1)
    torch._dynamo.reset()


@pytest.mark.parametrize("index", [1, 3, 6])
def test_opcheck(index: int) -> None:
    case = CASES[index]
    numbers = (case.patch, case.target, float(case.radius), case.norm_pix, list(MEAN), list(STD), case.dtype)
    torch.library.opcheck(masked_patches_op, (*inputs(case), *numbers, case.target_dtype, SOURCE))


@pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"])
def test_a_patch_outside_the_image_is_nan(target: TargetKind) -> None:
    case = Case(batch=1, size=48, patch=8, keep=2, target=target, radius=9)
    images, _, _ = inputs(case)
    ids_keep, ids_mask = torch.tensor([[0, 36]]), torch.tensor([[-1, 35, 2**40]])
    visible, hidden = run(case, masked_patches, (images, ids_keep, ids_mask))
    assert visible.isnan().all(-1).tolist() == [[False, True]]
    assert hidden.isnan().all(-1).tolist() == [[True, False, True]]
    assert not visible[0, 0].isnan().any()
    assert not hidden[0, 1].isnan().any()


def test_target_has_unit_mean_square() -> None:
    case = Case(batch=2, size=48, patch=16, keep=3)
    _, target = run(case, masked_patches, inputs(case))
    # 767/768: the variance is unbiased, the mean square is not.
    torch.testing.assert_close(target.square().mean(-1), torch.full((2, 6), 767 / 768), rtol=1e-4, atol=0)


@pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"])
def test_flat_image_has_a_zero_target(target: TargetKind) -> None:
    case = Case(batch=1, size=48, patch=8, keep=9, target=target, radius=9)
    _, ids_keep, ids_mask = inputs(case)
    images = torch.full((1, 48, 48, 3), 255, dtype=torch.uint8)
    # Gray in 0..1 units, so that the channels agree after mean and std.
    gray = dataclasses.replace(case.wanted, mean=(0.5,) * 3, std=(0.5,) * 3)
    visible, hidden = masked_patches(images, ids_keep, ids_mask, gray, dtype=torch.float32)
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


# "ideal": four products, its targets, and the visible patches; patches of 56 are left to the reference
@pytest.mark.parametrize(
    ("target", "patch", "launches"), [("raw", 16, 1), ("gaussian", 16, 1), ("ideal", 16, 6), ("ideal", 56, 6)]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_launches_on_a_gpu(target: TargetKind, patch: int, launches: int) -> None:
    case = Case(batch=3, size=224, patch=patch, keep=4, target=target)
    graphs: list[torch.fx.GraphModule] = []

    def keep_graph(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    backend = aot_autograd(fw_compiler=keep_graph)
    with FakeTensorMode():
        images = torch.empty(3, 224, 224, 3, dtype=torch.uint8, device="cuda")
        ids_keep, ids_mask = (torch.empty(3, n, dtype=torch.int64, device="cuda") for n in (4, 12))
        function = torch.compile(masked_patches, fullgraph=True, backend=backend)
        visible, hidden = run(case, function, (images, ids_keep, ids_mask))
    assert (visible.shape, hidden.shape) == ((3, 4, patch**2 * 3), (3, 12, patch**2 * 3))
    names = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("triton_kernel_wrapper" in name for name in names) == launches
    # TF32 is torch's to choose in its own products; a copy from or to the host cannot be captured.
    assert not [name for name in names if "mm" in name or "matmul" in name or "_local_scalar" in name]
    assert not [node for node in graphs[0].graph.nodes if node.op == "get_attr"]


def test_the_kernels_leave_wide_blurs_to_the_reference() -> None:
    def launched(size: int, patch: int, target: TargetKind, radius: float) -> bool:
        wanted = Case(batch=1, size=size, patch=patch, keep=1, target=target, radius=radius).wanted
        return has_kernel(size, wanted)

    assert launched(224, 16, "gaussian", 40)
    assert launched(448, 14, "gaussian", 40)
    assert launched(224, 16, "ideal", 40)
    assert not launched(224, 16, "gaussian", 5)
    assert not launched(224, 56, "raw", 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 48, 48, 3)}, "images are"),
        ({"images": torch.zeros(2, 48, 40, 3, dtype=torch.uint8)}, "images are"),
        ({"patch": 7}, "patch is 7"),
        ({"ids_mask": torch.zeros(3, 4, dtype=torch.int64)}, "ids_mask is"),
        ({"ids_keep": torch.zeros(2, 4, dtype=torch.int32)}, "ids_keep is"),
        ({"kind": "sharp"}, 'target is "sharp"'),
        ({"kind": "gaussian", "radius": 0.5}, "radius is 0.5"),
        ({"kind": "gaussian", "radius": -1.0}, "radius is -1"),
        ({"kind": "ideal", "radius": 0.7}, r"at least 0\.707"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
        ({"dtype": torch.int32}, "dtype is"),
        ({"target_dtype": torch.float64}, "target_dtype is"),
        ({"images": torch.zeros(2, 3, 48, 48, dtype=torch.uint8).permute(0, 2, 3, 1)}, "have strides"),
        ({"ids_keep": torch.zeros(2, 9, dtype=torch.int64, device="meta")}, "ids_keep is on meta"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_bad_arguments_name_the_value(change: dict[str, Any], message: str) -> None:
    images, ids_keep, ids_mask = inputs(Case(batch=2, size=48, patch=8, keep=9))
    given: dict[str, Any] = {
        "images": images, "ids_keep": ids_keep, "ids_mask": ids_mask, "patch": 8, "kind": "raw",
        "radius": 9.0, "norm_pix": True, "mean": MEAN, "std": STD, "dtype": torch.float32,
    } | change  # fmt: skip
    images, ids_keep, ids_mask = (given.pop(name) for name in ("images", "ids_keep", "ids_mask"))
    wanted = PatchTarget(**{field.name: given.pop(field.name) for field in dataclasses.fields(PatchTarget)})
    with pytest.raises(ValueError, match=message):
        masked_patches(images, ids_keep, ids_mask, wanted, **given)
