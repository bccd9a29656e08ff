"""Ahead-of-time compilation: what each Triton kernel costs on A100, H100 and B200, without a GPU.

`python -m turbomim.kernels.static` prints one line for each kernel, configuration and architecture.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from turbomim.kernels import masked_patches, masking

# compute capability: A100; H100 and H200; B200
ARCHITECTURES = (80, 90, 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """One kernel as a recipe launches it."""

    name: str
    # the @triton.jit function
    kernel: Any
    # Triton types of the run-time arguments, in order
    types: tuple[str, ...]
    # compile-time arguments and num_warps
    constants: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a compiled kernel takes of a multiprocessor."""

    name: str
    architecture: int
    warps: int
    # of 255, a thread
    registers: int
    shared_bytes: int
    # local memory a thread: spilled registers and stack
    spill_bytes: int
    # machine code
    cubin_bytes: int


def configurations() -> tuple[Configuration, ...]:
    """Return the configurations that the recipes use: 224 pixels, and the demo's 96 with patch 8."""
    return (
        _masking(units=196, keep=49),
        _masking(units=144, keep=36),
        _patches(size=224, patch=16, target="raw", radius=40, visible="bf16"),
        _patches(size=224, patch=16, target="raw", radius=40, visible="fp32"),
        _patches(size=224, patch=16, target="gaussian", radius=40, visible="bf16"),
        _patches(size=224, patch=16, target="gaussian", radius=40, visible="fp32"),
        _patches(size=224, patch=14, target="gaussian", radius=40, visible="bf16"),
        _patches(size=224, patch=32, target="gaussian", radius=40, visible="bf16"),
        _patches(size=96, patch=8, target="raw", radius=17, visible="fp32"),
        _patches(size=96, patch=8, target="gaussian", radius=17, visible="fp32"),
    )


def _masking(*, units: int, keep: int) -> Configuration:
    """Return `random_masking` of so many units."""
    return Configuration(
        name=f"random_masking units={units} keep={keep}",
        kernel=masking._random_masking_kernel,
        types=("*i64", "*i64", "*i64", "*i64", "i64"),
        constants=masking.kernel_constants(units, keep),
    )


def _patches(*, size: int, patch: int, target: str, radius: float, visible: str) -> Configuration:
    """Return `masked_patches` with norm_pix; `visible` is the Triton name of its dtype."""
    return Configuration(
        name=f"masked_patches S={size} patch={patch} {target} {visible}",
        kernel=masked_patches._masked_patches_kernel,
        types=("*u8", "*i64", "*i64", f"*{visible}", "*fp32", "i32", "i32", *["fp32"] * 9),
        constants=masked_patches.kernel_constants(size, patch, target, radius, norm_pix=True),
    )


def compile_kernel(configuration: Configuration, architecture: int) -> Usage:
    """Compile one kernel to machine code and read what it uses.

    architecture: compute capability as two digits or three (80, 90, 100).
    Raises RuntimeError in a process that runs Triton's interpreter, which cannot compile.
    """
    kernel = configuration.kernel
    if not isinstance(kernel, triton.runtime.JITFunction):
        raise RuntimeError("TRITON_INTERPRET is set: unset it to compile kernels")
    constants = dict(configuration.constants)
    warps = constants.pop("num_warps")
    run_time = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(run_time, configuration.types, strict=True)) | dict.fromkeys(constants, "constexpr")
    # torch allocates on 256 byte boundaries, and Triton specialises on multiples of 16.
    pointers = [i for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")]
    source = ASTSource(
        kernel,
        signature={name: signature[name] for name in kernel.arg_names},
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    registers, spill_bytes = _resources(compiled.asm["cubin"])
    return Usage(
        name=configuration.name,
        architecture=architecture,
        warps=warps,
        registers=registers,
        shared_bytes=compiled.metadata.shared,
        spill_bytes=spill_bytes,
        cubin_bytes=len(compiled.asm["cubin"]),
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return a thread's registers and bytes of local memory, as read by the cuobjdump that Triton brings."""
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(cuobjdump), "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    if set(numbers) != {"REG", "STACK", "LOCAL"}:
        raise RuntimeError(f"cuobjdump -res-usage named no registers, stack and local memory: {text!r}")
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def table(usages: Sequence[Usage]) -> str:
    """Return the usages as aligned text, one a line, under a header."""
    width = max(len(usage.name) for usage in usages)
    lines = [f"{'kernel':{width}}  arch    warps  registers  shared B  spill B  cubin B"]
    for u in usages:
        lines.append(
            f"{u.name:{width}}  sm_{u.architecture:<3}  {u.warps:5}  {u.registers:9}"
            f"  {u.shared_bytes:8}  {u.spill_bytes:7}  {u.cubin_bytes:7}"
        )
    return "\n".join(lines)


def main() -> None:
    """Compile everything and print the table."""
    print(table([compile_kernel(c, arch) for c in configurations() for arch in ARCHITECTURES]))


if __name__ == "__main__":
    main()
