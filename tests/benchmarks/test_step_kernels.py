"""The compiled step's own kernels, for a GPU that is not there.

Planted bugs and the test that fails on each: numbers that a kernel gets from torch's compiler in float64 and
does not round (its targets are then of two types, and it does not compile), a drawn mask that is left out of
the graph: `test_a_step_compiles_for_a_gpu_that_is_not_there`; launches of the backward pass counted as the
forward's: `test_launches_are_counted_in_each_code`.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from turbomim.benchmarks.gpu.step_kernels import StepKernel, _counted, main, report

# a process of its own: torch keeps what it believes of the GPU
PROGRAM = """
import dataclasses, json
from turbomim.benchmarks.gpu.step_kernels import compile_step
from turbomim.train.recipes.table import recipe
config = recipe("demo")
config = dataclasses.replace(config, model=dataclasses.replace(config.model, depth=2, decoder_depth=1))
step = compile_step(config, 90, 64)
print(json.dumps([[dataclasses.asdict(kernel) for kernel in step.kernels], step.calls]))
"""


def test_a_step_compiles_for_a_gpu_that_is_not_there() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels, calls = json.loads(done.stdout.splitlines()[-1])
    ours = {name: [k for k in kernels if name in k["name"]] for name in ("masked_patches", "random_masking")}
    for (kernel,) in ours.values():
        assert kernel["launches"] == 1 and 0 < kernel["registers"] <= 128 and kernel["spill_bytes"] == 0, (
            kernel
        )
    assert len(kernels) > 20 and all(0 < kernel["registers"] <= 255 for kernel in kernels)
    # as traced: five products a block and five at its ends, and twice as many back but for the images'
    assert calls["addmm"] == 15 and calls["mm"] == 29
    flash = "_scaled_dot_product_flash_attention"
    assert calls[flash] == calls[f"{flash}_backward"] == 3


FORWARD = """
_masked_patches_kernel_1 = async_compile.triton('_masked_patches_kernel', '''
triton_poi_fused_0 = async_compile.triton('triton_poi_fused_0', '''
def call(args):
    _masked_patches_kernel_1.run(arg0_1, stream=stream0)
    for _ in range(1):
        triton_poi_fused_0.run(buf0, stream=stream0)
    triton_poi_fused_0.run(buf1, stream=stream0)
    extern_kernels.addmm(buf2, buf3)
    buf4 = torch.ops.aten._scaled_dot_product_flash_attention.default(buf3)
"""
BACKWARD = """
triton_poi_fused_0 = async_compile.triton('triton_poi_fused_0', '''
def call(args):
    triton_poi_fused_0.run(buf0, stream=stream0)
    extern_kernels.mm(buf2, buf3)
"""


def kernel(registers: int) -> StepKernel:
    return StepKernel(name="", launches=0, warps=4, registers=registers, spill_bytes=8 * (registers > 30))


def test_launches_are_counted_in_each_code() -> None:
    step = _counted([FORWARD, BACKWARD], [kernel(10), kernel(20), kernel(40)])
    assert [(k.name, k.launches, k.registers) for k in step.kernels] == [
        ("_masked_patches_kernel_1", 1, 10), ("triton_poi_fused_0", 2, 20), ("triton_poi_fused_0", 1, 40),
    ]  # fmt: skip
    assert step.calls == {"addmm": 1, "mm": 1, "_scaled_dot_product_flash_attention": 1}
    text = report(step, 90).splitlines()
    assert text[2] == "| `triton_poi_fused_0` | 2 | 4 | 20 | 0 |"
    assert text[-1].startswith("sm_90: 4 launches of 3 Triton kernels, at most 40 registers, 1 of them spill")


def test_a_kernel_that_was_never_compiled_is_no_count() -> None:
    with pytest.raises(AssertionError, match="launched, and not compiled"):
        _counted([BACKWARD.replace("triton_poi_fused_0.run", "another.run")], [kernel(10)])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["no-such"], "no-such"),
        (["--sm", "90,75"], "--sm = 75: must be among 80, 90"),
        (["--batch", "0"], "--batch = 0: must be 1 or more"),
    ],
)
def test_bad_options_are_one_line(argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["step_kernels", *argv])
    with pytest.raises(SystemExit, match=said):
        main()
