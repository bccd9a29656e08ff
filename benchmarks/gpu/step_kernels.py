"""What torch's compiler makes of a step for a GPU that is not there: kernels, registers, spills, launches.

    python -m turbomim.benchmarks.gpu.step_kernels [RECIPE] [--sm 80,90] [--batch 256]

The step is traced and lowered as `torch.compile` does it, forward and backward; each Triton kernel is
compiled to machine code, as `bench kernels --static` does with those of this project.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, cast
from unittest import mock

import torch
from torch._dynamo.device_interface import CudaInterface
from torch._functorch import config as functorch_config
from torch._inductor import async_compile
from torch._inductor import config as inductor_config
from torch._inductor.codecache import PyCodeCache
from torch._inductor.compile_fx import compile_fx
from torch._inductor.runtime import triton_helpers
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from turbomim.benchmarks.gpu.absent import CUDA, absent_gpu, moved
from turbomim.benchmarks.kernels.static import compilers, resources
from turbomim.benchmarks.tables import markdown_table
from turbomim.pipeline.system.errors import UserError, need
from turbomim.train.models.methods import make_model
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config

# sm: multiprocessors, shared memory of a block and of a multiprocessor, bytes
SIZES: Final = {80: (108, 166912, 167936), 90: (132, 232448, 233472)}
HEAD: Final = ("kernel", "launches", "warps", "registers", "spill B")
# in the code that the compiler writes, the name that it gives to a Triton kernel
COMPILED: Final = re.compile(r"^(\w+) = async_compile\.triton\(", re.MULTILINE)
# a call of the code that the compiler writes: a Triton kernel's, a library's, another operation of torch
LAUNCHED: Final = re.compile(
    r"^\s+(?:\w+ = )?(?:(\w+)\.run|extern_kernels\.(\w+)|torch\.ops\.(?:aten|turbomim)\.(\w+)[.\w]*)\(",
    re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKernel:
    """One Triton kernel of a compiled step; of several forms that would be timed, the most of each."""

    name: str
    launches: int
    warps: int
    registers: int
    spill_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledStep:
    """The kernels, and calls of libraries and of torch's own operations by name."""

    kernels: tuple[StepKernel, ...]
    calls: Counter[str]


def compile_step(config: Config, sm: int, batch: int) -> CompiledStep:
    """Compile forward and backward of a micro-batch for compute capability `sm`, one of SIZES.

    Needs no GPU, and no memory of the model's size but for its weights.
    """
    model = make_model(config, initial=False)
    torch.compiler.reset()
    with _compiler_for(sm) as (kernels, codes), absent_gpu():
        on_gpu = moved(model)
        size = config.data.size
        images_BHWC = torch.zeros(batch, size, size, 3, dtype=torch.uint8, device=CUDA)
        numbers_B = torch.arange(batch, device=CUDA)

        def backend(graph: Any, inputs: Any) -> Any:
            compile_fx(graph, inputs)
            # what was compiled is not run
            return graph

        compiled: Any = torch.compile(on_gpu, fullgraph=True, dynamic=False, backend=backend)
        with torch.autocast("cuda", torch.bfloat16):
            compiled(images_BHWC, numbers_B, numbers_B)
    torch.compiler.reset()
    return _counted(codes, kernels)


def _counted(codes: list[str], kernels: list[StepKernel]) -> CompiledStep:
    """The kernels, in the order in which the code has them, with their launches."""
    calls = Counter[str]()
    following, found = iter(kernels), []
    for code in codes:
        # names are a code's own: that of the backward pass has some of the forward's again
        launches = Counter[str]()
        for kernel, library, operation in LAUNCHED.findall(code):
            (launches if kernel else calls)[kernel or library or operation] += 1
        names = COMPILED.findall(code)
        found += [replace(next(following), name=name, launches=launches.pop(name, 0)) for name in names]
        assert not launches, f"launched, and not compiled: {sorted(launches)}"
    assert not list(following)
    return CompiledStep(kernels=tuple(found), calls=calls)


class _Driver:
    """In place of CUDA's driver: says what to compile for."""

    def __init__(self, sm: int) -> None:
        self._target = GPUTarget("cuda", sm, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return CUDA

    def get_device_interface(self) -> Any:
        return torch.cuda


def _properties(sm: int) -> types.SimpleNamespace:
    """What CUDA says of a device, as far as the compiler asks."""
    count, of_block, of_processor = SIZES[sm]
    return types.SimpleNamespace(
        name=f"sm_{sm}",
        major=sm // 10,
        minor=sm % 10,
        multi_processor_count=count,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        warp_size=32,
        total_memory=80 << 30,
        gcnArchName="",
        shared_memory_per_block_optin=of_block,
        shared_memory_per_multiprocessor=of_processor,
        L2_cache_size=40 << 20,
    )


@contextlib.contextmanager
def _compiler_for(sm: int) -> Iterator[tuple[list[StepKernel], list[str]]]:
    """Let torch's compiler compile for `sm`; lists that get the kernels, and the code that it writes."""
    kernels: list[StepKernel] = []
    codes: list[str] = []
    properties = staticmethod(lambda device=None: _properties(sm))
    written = PyCodeCache.write

    def compiled(_: object, name: str, source: str, device_str: str = "cuda", **__: object) -> object:
        kernel: Any = cast(Any, async_compile)._load_triton_kernel_from_source(name, source)
        forms = [kernel._precompile_config(form) for form in kernel.configs]
        used = [resources(form.kernel.asm["cubin"]) for form in forms]
        kernels.append(
            StepKernel(
                name=name,
                launches=0,
                warps=max(form.num_warps for form in kernel.configs),
                registers=max(registers for registers, _ in used),
                spill_bytes=max(spilled for _, spilled in used),
            )
        )
        return types.SimpleNamespace(run=lambda *_, **__: None)

    def write(source: str, *arguments: Any, **given: Any) -> Any:
        codes.append(source)
        return written(source, *arguments, **given)

    settings = {
        "joint_graph_constant_folding": False,
        "compile_threads": 1,
        "fx_graph_cache": False,
        "shape_padding": False,
        "use_static_triton_launcher": False,
        "use_static_cuda_launcher": False,
    }
    settings = {name: value for name, value in settings.items() if hasattr(inductor_config, name)}
    driver_before = getattr(driver, "_active", None)
    with contextlib.ExitStack() as patches:
        for where, name, what in (
            (triton_helpers, "set_driver_to_gpu", lambda: None),
            (async_compile.AsyncCompile, "triton", compiled),
            (PyCodeCache, "write", write),
            (torch.cuda, "get_device_capability", lambda device=None: divmod(sm, 10)),
            (torch.cuda, "get_device_properties", properties),
            (CudaInterface, "get_device_properties", properties),
            (CudaInterface.Worker, "get_device_properties", properties),
            (CudaInterface, "get_compute_capability", staticmethod(lambda device=None: sm)),
            (CudaInterface, "is_available", staticmethod(lambda: True)),
            (CudaInterface, "is_bf16_supported", staticmethod(lambda including_emulation=False: True)),
            (CudaInterface, "current_device", staticmethod(lambda: 0)),
            (CudaInterface.Worker, "current_device", staticmethod(lambda: 0)),
            (CudaInterface, "device_count", staticmethod(lambda: 1)),
        ):
            patches.enter_context(mock.patch.object(where, name, what))
        patches.enter_context(inductor_config.patch(settings))
        cache = {"enable_autograd_cache": False, "force_non_lazy_backward_lowering": True}
        patches.enter_context(cast(Any, functorch_config).patch(cache))
        driver.set_active(cast(Any, _Driver(sm)))
        try:
            yield kernels, codes
        finally:
            driver._active = driver_before


def report(step: CompiledStep, sm: int) -> str:
    """The kernels as a markdown table, the most launched first, and a line of what else is called."""
    kernels = sorted(step.kernels, key=lambda kernel: (-kernel.launches, kernel.name))
    rows = [(f"`{k.name}`", *map(str, (k.launches, k.warps, k.registers, k.spill_bytes))) for k in kernels]
    return f"{markdown_table([HEAD, *rows], words=2)}\n\n{summary(step, sm)}"


def summary(step: CompiledStep, sm: int) -> str:
    """A step's launches, and the most that a kernel takes."""
    launches = sum(kernel.launches for kernel in step.kernels)
    calls = ", ".join(f"{number} {name}" for name, number in step.calls.most_common())
    return (
        f"sm_{sm}: {launches} launches of {len(step.kernels)} Triton kernels, at most "
        f"{max(kernel.registers for kernel in step.kernels)} registers, "
        f"{sum(kernel.spill_bytes > 0 for kernel in step.kernels)} of them spill; besides {calls}"
    )


def main() -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="mae-vit-b16-800e", help="(%(default)s)")
    parser.add_argument("--sm", default="80,90", help="architectures, with commas between (%(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="images of a micro-batch (%(default)s)")
    options = parser.parse_args()
    try:
        config = recipe(options.recipe)
        architectures = [sm.strip() for sm in options.sm.split(",")]
        for sm in architectures:
            need(sm in map(str, SIZES), "--sm", sm, f"among {', '.join(map(str, SIZES))}")
        need(options.batch >= 1, "--batch", options.batch, "1 or more")
    except UserError as error:
        raise SystemExit(f"turbomim: {error}") from None
    print(f"{options.recipe}, {options.batch} images; torch {torch.__version__}, {compilers()}\n")
    for sm in map(int, architectures):
        print(report(compile_step(config, sm, options.batch), sm), flush=True)
        print()


if __name__ == "__main__":
    main()
