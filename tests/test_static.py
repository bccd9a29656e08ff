"""Every Triton kernel compiles to machine code for A100, H100 and B200, and spills nothing.

Without a GPU.  A kernel that takes one argument more, or uses what an architecture lacks, fails here.
"""

from dataclasses import replace
from typing import Any

import pytest

from turbomim.kernels import masked_patches, masking, static
from turbomim.kernels.static import ARCHITECTURES, Configuration, compile_kernel, configurations, table

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("configuration", configurations(), ids=lambda configuration: configuration.name)
def test_compiles_without_spilling(configuration: Configuration, architecture: int) -> None:
    usage = compile_kernel(configuration, architecture)
    assert usage.spill_bytes == 0, usage
    assert 0 < usage.registers <= 128, usage
    # Two blocks a multiprocessor, on the smallest of them (A100: 163 KiB a block).
    assert usage.shared_bytes <= 80 * 1024, usage
    assert usage.cubin_bytes > 0


def test_spills_are_seen() -> None:
    wide = next(c for c in configurations() if "patch=32 gaussian" in c.name)
    # Two warps cannot hold a window of 64 x 64 x 4.
    assert compile_kernel(replace(wide, constants=wide.constants | {"num_warps": 2}), 90).spill_bytes > 0


def test_every_kernel_is_compiled() -> None:
    compiled = {configuration.kernel for configuration in configurations()}
    launched = {
        value
        for module in (masking, masked_patches)
        for name, value in vars(module).items()
        if name.endswith("_kernel")
    } - {masked_patches.has_kernel}
    assert compiled == launched


def test_table_has_a_line_for_each() -> None:
    usage = compile_kernel(configurations()[0], 90)
    lines = table([usage, replace(usage, name="other", registers=7)]).splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split()[:4] == ["other", "sm_90", "4", "7"]


def test_the_interpreter_cannot_compile() -> None:
    def interpreted(*_: Any) -> None: ...

    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        compile_kernel(replace(configurations()[0], kernel=interpreted), 90)


def test_unreadable_report_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        stdout = "no such thing"

    monkeypatch.setattr("subprocess.run", lambda *_, **__: Result)
    with pytest.raises(RuntimeError, match="cuobjdump"):
        static._resources(b"")
