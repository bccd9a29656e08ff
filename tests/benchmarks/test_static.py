"""Every Triton kernel compiles to machine code for A100, H100 and B200, and spills nothing.

Without a GPU.  A kernel that takes one argument more, or uses what an architecture lacks, fails here.

Which test fails for which mistake (each was made once, on purpose):
too few warps, so that registers spill: test_compiles_without_spilling;
a product's tile of 64 x 64, where warps repeat each other on sm_80, or masking in chunks of 16, both with
Triton 3.8.0: test_compiles_without_spilling;
numbers that are not rounded to float32 first: test_numbers_in_float64_change_nothing;
a recipe whose sizes nobody compiles, or SwinV2's whole images in float32: test_every_recipe_is_compiled;
registers not rounded up, the kibibyte of a block left out, warps not in fours: test_warps_that_fit;
a floor above what is stored, or in other units: test_bytes_of_mae.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
import triton

from turbomim.benchmarks.kernels import static
from turbomim.benchmarks.kernels.configurations import (
    Configuration,
    Traffic,
    configurations,
    load_store_bytes,
)
from turbomim.benchmarks.kernels.static import (
    ARCHITECTURES,
    Usage,
    compile_kernel,
    resource_table,
    traffic_table,
    usages,
)
from turbomim.kernels import ideal, masked_patches, masking
from turbomim.train.models.masked import patch_target
from turbomim.train.recipes.table import RECIPES
from turbomim.train.settings.model import ModelConfig

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CONFIGURATIONS = {configuration.name: configuration for configuration in configurations()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_compiles_without_spilling(name: str, architecture: int) -> None:
    usage = next(u for u in usages() if (u.configuration.name, u.architecture) == (name, architecture))
    assert usage.spill_bytes == 0, usage
    assert 0 < usage.registers <= 128, usage
    # Two blocks a multiprocessor, on the smallest of them (A100: 163 KiB a block).
    assert usage.shared_bytes <= 80 * 1024, usage
    assert usage.cubin_bytes > 0
    resident, _ = usage.resident_warps()
    # enough warps that some compute while others wait for memory
    assert 12 <= resident <= 64 and resident % usage.warps() == 0, usage


@pytest.mark.parametrize("name", [name for name, c in CONFIGURATIONS.items() if "fp32" in c.types])
def test_numbers_in_float64_change_nothing(name: str) -> None:
    """Triton passes Python's floats in float32, torch's compiler in float64 (pytorch #190340)."""
    plain = CONFIGURATIONS[name]
    wide = replace(plain, types=tuple("fp64" if kind == "fp32" else kind for kind in plain.types))
    ours, of_torch = (compile_kernel(configuration, 90) for configuration in (plain, wide))
    assert of_torch.spill_bytes == 0
    # the numbers themselves take twice as many, before they are rounded
    assert of_torch.registers <= ours.registers + 2 * plain.types.count("fp32")
    assert of_torch.cubin_bytes < 1.1 * ours.cubin_bytes


def test_spills_are_seen() -> None:
    ranks = configurations()[0]
    # One warp cannot hold 128 x 64 comparisons.
    wide = replace(ranks, constants=ranks.constants | {"TILE": 128, "CHUNK": 64, "num_warps": 1})
    assert compile_kernel(wide, 90).spill_bytes > 0


def test_every_kernel_is_compiled() -> None:
    compiled = {configuration.kernel for configuration in configurations()}
    launched = {
        value
        for module in (masking, masked_patches, ideal)
        for name, value in vars(module).items()
        if name.endswith("_kernel")
    } - {masked_patches.has_kernel}
    assert compiled == launched


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_compiled(recipe: str) -> None:
    config = RECIPES[recipe]()
    compiled = [configuration.constants for configuration in configurations()]
    model, size = config.model, config.data.size
    area = model.mask_unit**2
    assert masking.kernel_constants(config.patches // area, config.keep // area) in compiled
    target = patch_target(model)
    if masked_patches.has_kernel(size, target):
        assert masked_patches.kernel_constants(size, target) in compiled
    if model.norm_window:
        whole = masked_patches.kernel_constants(size, replace(target, norm_pix=False))
        assert whole in [c.constants for c in configurations() if c.types[3:5] == ("*fp32", "*fp32")]
    if model.target == "ideal":
        assert ideal.ideal_constants(size, target) in compiled


def usage(*, warps: int, registers: int, shared: int = 0, architecture: int = 80) -> Usage:
    nothing = Traffic(floor=0, loads=0, stores=0)
    configuration = Configuration(
        name="any", kernel=None, types=(), constants={"num_warps": warps}, traffic=nothing
    )
    return Usage(
        configuration=configuration,
        architecture=architecture,
        registers=registers,
        shared_bytes=shared,
        spill_bytes=0,
        cubin_bytes=1,
    )


@pytest.mark.parametrize(
    ("kernel", "warps", "limit"),
    [
        # 2,048 threads of 32 registers are all 65,536
        (usage(warps=4, registers=32), 64, "warps"),
        # 33 become 40: 1,280 a warp, 51 warps, 48 in fours
        (usage(warps=4, registers=33), 48, "registers"),
        (usage(warps=2, registers=33), 48, "registers"),
        (usage(warps=8, registers=128), 16, "registers"),
        # 2,560 a warp: 25 warps, 24 in fours, three blocks of 8
        (usage(warps=8, registers=80), 24, "registers"),
        (usage(warps=1, registers=255), 8, "registers"),
        # 32 blocks at most
        (usage(warps=1, registers=32), 32, "blocks"),
        # 40 KiB and one more of 164: four blocks; of 228: five
        (usage(warps=4, registers=32, shared=40 * 1024), 16, "shared memory"),
        (usage(warps=4, registers=32, shared=40 * 1024, architecture=90), 20, "shared memory"),
    ],
)
def test_warps_that_fit(kernel: Usage, warps: int, limit: str) -> None:
    assert kernel.resident_warps() == (warps, limit)


def test_bytes_of_mae() -> None:
    mae = next(c for c in configurations() if "224 px, patch 16, raw, bf16" in c.name).traffic
    image, visible, hidden = 224 * 224 * 3, 49 * 768 * 2, 147 * 768 * 2
    # the patch numbers are read too
    assert visible + hidden == mae.stores
    assert mae.floor == image + visible + hidden + 196 * 8
    assert mae.floor <= mae.loads + mae.stores
    assert mae.floor_us(2.0) == pytest.approx(mae.floor / 2e12 * 1000 * 1e6)


def test_bytes_of_pixmim() -> None:
    bf16, gaussian = torch.bfloat16, patch_target(ModelConfig(target="gaussian"))
    floor, loads, stores = load_store_bytes(224, 49, gaussian, bf16, bf16)
    assert (floor, stores) == (150_528 + 75_264 + 225_792 + 1_568, 75_264 + 225_792)
    assert loads == 49 * 768 + 147 * 24 * 24 * 3 + 1_568
    assert load_store_bytes(224, 49, replace(gaussian, kind="raw"), bf16, bf16)[1] == 150_528 + 1_568
    with pytest.raises(ValueError, match="ideal"):
        load_store_bytes(224, 49, replace(gaussian, kind="ideal"), bf16, bf16)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_no_kernel_moves_less_than_its_floor(name: str) -> None:
    traffic = CONFIGURATIONS[name].traffic
    assert 0 < traffic.stores < traffic.floor <= traffic.loads + traffic.stores


def test_tables_have_a_line_for_each() -> None:
    text = resource_table([usage(warps=4, registers=77), usage(warps=8, registers=7)]).splitlines()
    assert len(text) == 3 and len({len(line) for line in text}) == 1
    assert text[2].split()[:4] == ["any", "sm_80", "8", "7"]
    traffic = Traffic(floor=2_000_000, loads=5, stores=6)
    marked = traffic_table(
        [replace(CONFIGURATIONS[n], traffic=traffic) for n in CONFIGURATIONS], markdown=True
    )
    lines = marked.splitlines()
    assert len(lines) == 2 + len(CONFIGURATIONS) and len({line.count("|") for line in lines}) == 1
    assert lines[2].endswith("| 2,000,000 | 5 | 6 | 1,000.0 | 465.1 |")


def test_the_compilers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert static.compilers().startswith(f"Triton {triton.__version__}, ptxas ")
    versions = {80: "release 12.8, V12.8.93", 90: "release 12.8, V12.8.93", 100: "release 13.1, V13.1.80"}
    monkeypatch.setattr(static, "get_ptxas_version", versions.__getitem__)
    assert static.compilers().endswith(", ptxas 12.8.93 for sm_80 and sm_90, ptxas 13.1.80 for sm_100")
    monkeypatch.setattr(static, "get_ptxas_version", lambda _: "no such thing")
    with pytest.raises(RuntimeError, match="ptxas"):
        static.compilers()


def test_the_interpreter_cannot_compile() -> None:
    def interpreted(*_: Any) -> None: ...

    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        compile_kernel(replace(configurations()[0], kernel=interpreted), 90)


def test_unreadable_report_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        stdout = "no such thing"

    monkeypatch.setattr("subprocess.run", lambda *_, **__: Result)
    with pytest.raises(RuntimeError, match="cuobjdump"):
        static.resources(b"")
