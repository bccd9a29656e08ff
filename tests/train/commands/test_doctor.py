"""The report on the machine: what it mentions, what it advises, and that nothing stops it."""

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console
from tests import ROOT

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.packages import installed
from turbomim.train.commands import doctor
from turbomim.train.commands.doctor import TESTED, compiler_check, examine, print_report, versions_check
from turbomim.train.machine import checks as machine_checks
from turbomim.train.machine import processor
from turbomim.train.machine.checks import Check, Gpu, cpu_check, driver_version, gpu_checks, threads_check
from turbomim.train.machine.compiler import find_compiler

GIB = 2**30


def printed(checks: list[Check]) -> str:
    out = io.StringIO()
    print_report(checks, Console(file=out, width=100))
    return out.getvalue()


def test_report_mentions_all_that_decides_speed() -> None:
    checks = examine()
    names = [check.name for check in checks]
    for name in (
        "python", "torch", "triton", "DALI", "versions", "timm", "torchvision", "numpy", "Pillow", "GPU",
        "CPU", "C++ compiler", "Python headers", "matrix products", "memory", "disk", "/dev/shm",
        "open files", "OMP_NUM_THREADS", "loader",
    ):  # fmt: skip
        assert names.count(name) >= 1, name
    text = printed(checks)
    assert all(check.name in text for check in checks)
    values = {check.name: check.value for check in checks}
    assert "GFLOP/s" in values["matrix products"]
    assert not any(check.value.startswith("not known") for check in checks)
    assert all(bool(check.advice) == (check.status != "ok") for check in checks)
    assert all(check.status != "missing" for check in checks)


def test_advice_comes_at_the_end_and_only_when_needed() -> None:
    fine = Check(name="disk", value="plenty")
    slow = Check(name="GPU", value="none", advice="all on the CPU")
    head, _, tail = printed([fine, slow]).partition("What will be slow or fail here, and why")
    assert "plenty" in head and "all on the CPU" in tail and "disk" not in tail
    assert "Nothing here will be slow." in printed([fine])


def test_no_compiler_gives_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert find_compiler() is None
    check = next(check for check in examine() if check.name == "C++ compiler")
    assert check.status == "slow"
    assert "--step.compile false" in check.advice and "apt-get install g++" in check.advice


@pytest.mark.parametrize("present", [["g++"], ["g++", "clang++"]])
def test_compiler_is_found_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, present: list[str]
) -> None:
    for name in [*present, "mine"]:
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert find_compiler() == str(tmp_path / present[0])
    monkeypatch.setenv("CXX", "mine -m64")
    assert find_compiler() == str(tmp_path / "mine")
    monkeypatch.setenv("CXX", "not-there")
    assert find_compiler() is None


def test_compiler_lines() -> None:
    clang = "/usr/bin/clang++"
    assert compiler_check(None, "/usr/bin/g++", clang).status == "ok"
    assert compiler_check("clang++", clang, clang).status == "ok"
    # torch looks for g++ only
    assert f"export CXX={clang}" in compiler_check(None, None, clang).advice
    assert "unset CXX" in compiler_check("gone", None, None).advice


@pytest.mark.parametrize("text", ["", "\x00\ufffd garbage : : \n\n", "flags\t: \nmodel name\n"])
def test_odd_proc_does_not_stop_the_report(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for module in (doctor, machine_checks, processor):
        monkeypatch.setattr(module, "read_text", lambda path: text)
    checks = {check.name: check for check in examine()}
    assert "cores for this process" in checks["CPU"].value
    assert "not known" in checks["memory"].value
    assert "not known" in printed(list(checks.values()))


def test_a_part_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Check:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(doctor, "shared_memory_check", broken)
    check = next(check for check in examine() if check.name == "/dev/shm")
    assert check.value == "not known (RuntimeError: two lines)"


def test_missing_package_is_essential(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ("timm", "matplotlib")
    monkeypatch.setattr(doctor, "installed", lambda names: installed(set(names) - set(gone)))
    checks = {check.name: check for check in examine()}
    assert {name for name, check in checks.items() if check.status == "missing"} == {"timm"}
    assert 'pip install "turbomim[plots]"' in checks["matplotlib"].value


def test_without_dali_photographs_alone_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UserError("DALI is gone: pip install it")

    monkeypatch.setattr(doctor, "installed_wheels", dict)
    monkeypatch.setattr(doctor, "import_dali", absent)
    (check,) = (check for check in examine() if check.name == "DALI")
    assert (check.value, check.status) == ("no wheel installed", "slow")
    assert check.advice == (
        "DALI is gone: pip install it; without it a CPU trains all but rrc, a GPU only raw stores"
    )


def test_two_dali_wheels_are_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = {"nvidia-dali-cuda120": "2.4.0", "nvidia-dali-cuda130": "2.4.0"}
    monkeypatch.setattr(doctor, "installed_wheels", lambda: wheels)
    (check,) = (check for check in examine() if check.name == "DALI")
    assert check.value == "2.4.0 (nvidia-dali-cuda120), 2.4.0 (nvidia-dali-cuda130)"
    assert check.status == "slow" and "both installed" in check.advice


def constraints(name: str) -> dict[str, str]:
    """The versions of one file of constraints/."""
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


@pytest.mark.parametrize(("file", "end"), [("oldest.txt", 0), ("newest.txt", 1)])
def test_tested_range_ends_where_the_constraints_do(file: str, end: int) -> None:
    assert TESTED["nvidia-dali-cuda120"] == TESTED["nvidia-dali-cuda130"]
    versions = constraints(file)
    for name in TESTED.keys() - {"python", "nvidia-dali-cuda120"}:
        tested = TESTED[name][end].split(".")
        assert versions[name].split(".")[: len(tested)] == tested, name


def test_tested_range_begins_where_python_requires() -> None:
    assert f"python_requires = >={TESTED['python'][0]}\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


INSIDE: Mapping[str, str] = {"torch": "2.11.0+cu130", "numpy": "2.4.99", "timm": "1.0.31.post1"}


@pytest.mark.parametrize(
    ("versions", "status", "words"),
    [
        (INSIDE, "ok", ""),
        ({"torch": "2.16.0"}, "ok", "torch 2.16.0 (tested 2.11 to 2.15)"),
        ({"torch": "2.16.0.dev20270101+cu140"}, "ok", "torch 2.16.0.dev20270101+cu140 (tested 2.11 to 2.15)"),
        ({"torch": "2.9.1"}, "slow", "torch 2.9.1 (tested 2.11 to 2.15)"),
        ({"timm": "1.0.19"}, "slow", "timm 1.0.19 (tested 1.0.31 to 1.0.31)"),
        ({"timm": "1.0.32"}, "ok", "timm 1.0.32 (tested 1.0.31 to 1.0.31)"),
        ({"timm": "1.1"}, "ok", "timm 1.1 (tested 1.0.31 to 1.0.31)"),
        ({"transformers": "5"}, "ok", ""),
        ({"python": "3.15.0rc1"}, "ok", "python 3.15.0rc1 (tested 3.11 to 3.14)"),
        ({"numpy": "unknown"}, "slow", "numpy unknown (tested 2.0 to 2.4)"),
    ],
)
def test_versions_outside_the_tested_range(versions: Mapping[str, str], status: str, words: str) -> None:
    check = versions_check(versions)
    assert check.status == status
    assert check.value == (f"outside the tested range: {words}" if words else "all inside the tested range")


def test_versions_outside_the_tested_range_are_one_line() -> None:
    check = versions_check({"torch": "2.16.0", "triton": "3.8.0", "numpy": "1.26.4"})
    assert check.value == (
        "outside the tested range: torch 2.16.0 (tested 2.11 to 2.15), numpy 1.26.4 (tested 2.0 to 2.4)"
    )
    assert check.advice == "what is older than tested may fail: bring numpy up to date"


def test_cpu_line_names_the_instructions_that_matter() -> None:
    text = "processor: 0\nmodel name\t: A Chip @ 3 GHz\nflags\t\t: fpu avx2 avx512f amx_bf16\n"
    check = cpu_check(text, 8)
    assert check.value == "A Chip @ 3 GHz, 8 cores for this process, AVX2 AVX512 AMX-BF16"
    assert check.status == "ok"
    assert "AVX2" in cpu_check("flags : fpu sse2\n", 8).advice
    assert cpu_check(text, 1).status == "slow"
    # no flags line on other processors: nothing to complain about
    assert cpu_check("CPU implementer : 0x41\n", 8).status == "ok"


@pytest.mark.parametrize(
    ("setting", "cores", "status", "word"),
    [
        (None, 4, "ok", "not set"),
        ("4", 4, "ok", "4"),
        ("1", 1, "ok", "1"),
        ("1", 4, "slow", "3 of 4 cores idle"),
        ("8", 4, "slow", "more than the 4"),
        ("many", 4, "slow", "not a number"),
        ("0", 4, "slow", "not a number"),
    ],
)
def test_threads_line(setting: str | None, cores: int, status: str, word: str) -> None:
    check = threads_check(setting, cores)
    assert check.status == status
    assert word in check.value + check.advice


def test_gpu_lines() -> None:
    h200 = Gpu(name="NVIDIA H200", memory=141 * GIB, capability=(9, 0))
    checks = gpu_checks([h200] * 8, "570.1.2", "13.2", 64)
    assert [check.name for check in checks] == ["GPU", "nvJPEG"]
    assert checks[0].value == "8 × NVIDIA H200, 141 GiB, compute capability 9.0, driver 570.1.2"
    assert "hardware engines" in checks[1].value and "no hardware" not in checks[1].value
    assert [check.name for check in gpu_checks([h200] * 8, None, "13.2", 16)][-1] == "cores per GPU"
    old = gpu_checks([Gpu(name="T4", memory=16 * GIB, capability=(7, 5))], None, "13.2", 8)
    assert "no bfloat16" in old[0].advice and "no hardware engines" in old[1].value


def test_no_gpu_line_says_what_that_means() -> None:
    (check,) = gpu_checks([], None, "13.2", 8)
    assert check.status == "slow" and "float32" in check.advice and "driver" not in check.advice
    assert "driver 470.1.2 is there" in gpu_checks([], "470.1.2", "13.2", 8)[0].advice


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug\nGCC version 12.3",
            "535.104.05",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release", "570.86.15"),
        ("", None),
    ],
)
def test_driver_version(text: str, version: str | None) -> None:
    assert driver_version(text) == version
