"""Ahead-of-time compilation: what each Triton kernel costs on A100, H100 and B200, without a GPU.

Counted, not measured: registers, shared memory, spills, the warps that fit a multiprocessor, and bytes.
`turbomim bench kernels --static [--markdown]` prints a table of each, below the compilers' versions.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas_version
from triton.compiler import ASTSource

from turbomim.benchmarks.kernels.configurations import Configuration, configurations
from turbomim.benchmarks.tables import markdown_table


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What a multiprocessor has.  Source: CUDA C++ Programming Guide, compute capabilities."""

    name: str
    shared_bytes: int
    warps: int = 64
    blocks: int = 32
    registers: int = 65536


# by compute capability
ARCHITECTURES: Final = {
    80: Architecture(name="A100", shared_bytes=164 * 1024),
    90: Architecture(name="H100, H200", shared_bytes=228 * 1024),
    100: Architecture(name="B200", shared_bytes=228 * 1024),
}

# TB/s of A100-80G and of H200, for the floors
BANDWIDTHS: Final = (2.0, 4.3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a compiled kernel takes of a multiprocessor."""

    configuration: Configuration
    # compute capability
    architecture: int
    # of 255, a thread
    registers: int
    # a block
    shared_bytes: int
    # local memory a thread: spilled registers and stack
    spill_bytes: int
    # machine code
    cubin_bytes: int

    def warps(self) -> int:
        """Warps of a block."""
        return self.configuration.constants["num_warps"]

    def resident_warps(self) -> tuple[int, str]:
        """The most warps that a multiprocessor holds at once, and what allows no more.

        Source: the CUDA occupancy calculator: a warp's registers come in 256s, warps that registers allow in
        fours, a block's shared memory in 128 bytes and 1 KiB for the system.
        """
        has = ARCHITECTURES[self.architecture]
        warp_registers = _round_up(self.registers * 32, 256)
        shared = _round_up(self.shared_bytes, 128) + 1024
        blocks = {
            "registers": has.registers // warp_registers // 4 * 4 // self.warps(),
            "shared memory": has.shared_bytes // shared,
            "blocks": has.blocks,
            "warps": has.warps // self.warps(),
        }
        # of equals the last: fewer registers would gain nothing then
        limit = min(reversed(blocks), key=lambda name: blocks[name])
        return blocks[limit] * self.warps(), limit


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


@functools.cache
def usages() -> tuple[Usage, ...]:
    """Compile every configuration for every architecture, once a process."""
    return tuple(compile_kernel(c, arch) for c in configurations() for arch in ARCHITECTURES)


def compile_kernel(configuration: Configuration, architecture: int) -> Usage:
    """Compile one kernel to machine code and read what it uses.

    architecture: compute capability as a number, one of ARCHITECTURES.
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
    registers, spill_bytes = resources(compiled.asm["cubin"])
    return Usage(
        configuration=configuration,
        architecture=architecture,
        registers=registers,
        shared_bytes=compiled.metadata.shared,
        spill_bytes=spill_bytes,
        cubin_bytes=len(compiled.asm["cubin"]),
    )


def resources(cubin: bytes) -> tuple[int, int]:
    """Return a thread's registers and bytes of local memory, as read by the cuobjdump that Triton brings."""
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(cuobjdump), "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stdout
    numbers = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    if set(numbers) != {"REG", "STACK", "LOCAL"}:
        raise RuntimeError(f"cuobjdump -res-usage named no registers, stack and local memory: {text!r}")
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def compilers() -> str:
    """Name in one line what the counts depend on: Triton, and its ptxas for each architecture."""
    found: dict[str, list[str]] = {}
    for arch in ARCHITECTURES:
        text = get_ptxas_version(arch)
        release = re.search(r"\bV(\d[\d.]*\d)", text)
        if release is None:
            raise RuntimeError(f"ptxas --version named no version: {text!r}")
        found.setdefault(release[1], []).append(f"sm_{arch}")
    return f"Triton {triton.__version__}, " + ", ".join(
        f"ptxas {version} for {' and '.join(names)}" for version, names in found.items()
    )


def resource_table(compiled: Sequence[Usage], *, markdown: bool = False) -> str:
    """What each kernel takes on each architecture, one a line: aligned text, or markdown."""
    rows = [
        ["kernel", "arch", "warps", "registers", "shared B", "spill B", "cubin B", "warps on an SM", "limit"]
    ]
    for usage in compiled:
        resident, limit = usage.resident_warps()
        counts = (usage.warps(), usage.registers, usage.shared_bytes, usage.spill_bytes, usage.cubin_bytes)
        numbers = [f"{count:,}" for count in (*counts, resident)]
        rows.append([usage.configuration.name, f"sm_{usage.architecture}", *numbers, limit])
    return _lines(rows, markdown)


def traffic_table(counted: Sequence[Configuration], *, markdown: bool = False) -> str:
    """The bytes that each kernel moves an image, and the time of the fewest: aligned text, or markdown."""
    times = [f"µs at {bandwidth} TB/s" for bandwidth in BANDWIDTHS]
    rows = [["kernel", "fewest B", "loaded B", "stored B", *times]]
    for configuration in counted:
        traffic = configuration.traffic
        numbers = [f"{count:,}" for count in (traffic.floor, traffic.loads, traffic.stores)]
        numbers += [f"{traffic.floor_us(bandwidth):,.1f}" for bandwidth in BANDWIDTHS]
        rows.append([configuration.name, *numbers])
    return _lines(rows, markdown)


def _lines(rows: list[list[str]], markdown: bool) -> str:
    """Lay out a header and lines; every column but the first is aligned to the right."""
    if markdown:
        return markdown_table(rows, words=1)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)])
        for row in rows
    )


def print_tables(*, markdown: bool) -> None:
    """Compile everything and print both tables."""
    print(f"{compilers()}\n")
    print(resource_table(usages(), markdown=markdown))
    print("\nBytes an image; microseconds of the fewest bytes for 1,000 images:\n")
    print(traffic_table(configurations(), markdown=markdown))
