"""`turbomim doctor`: what is installed, what this machine has, what will be slow here and why."""

import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from turbomim.pipeline.decoding.dali_package import import_dali, installed_wheels, wheel_problem
from turbomim.pipeline.system.errors import UserError, one_line_with_class
from turbomim.pipeline.system.packages import installed
from turbomim.pipeline.system.words import counted
from turbomim.train.machine.checks import (
    Check,
    cpu_check,
    disk_check,
    gpus,
    loader_check,
    matmul_rate_check,
    matrix_products_check,
    memory_check,
    open_files_check,
    shared_memory_check,
    threads_check,
)
from turbomim.train.machine.compiler import check_compile_caches, compile_caches, find_compiler
from turbomim.train.machine.processor import cores, read_text
from turbomim.train.settings.flags import parse
from turbomim.train.terminal.streams import print_plain, table_console

_ESSENTIAL = (
    "triton", "torchvision", "timm", "webdataset", "numpy", "Pillow", "safetensors", "tyro", "rich", "PyYAML",
    "obstore", "huggingface_hub",
)  # fmt: skip
_OPTIONAL = {
    "matplotlib": "plots", "tensorboard": "tensorboard", "wandb": "wandb", "mlflow-skinny": "mlflow",
    "trackio": "trackio", "mvtb-data": "demo", "scikit-image": "demo", "scikit-learn": "demo",
}  # fmt: skip
# the oldest and the newest release that the tests run with, those of constraints/; later parts of a version,
# a newer patch release say, are free
TESTED: Final = {
    "python": ("3.11", "3.14"),
    "torch": ("2.11", "2.15"),
    "triton": ("3.6", "3.9"),
    "nvidia-dali-cuda120": ("2.0", "2.4"),
    "nvidia-dali-cuda130": ("2.0", "2.4"),
    "torchvision": ("0.26", "0.29"),
    "timm": ("1.0.31", "1.0.31"),
    "numpy": ("2.0", "2.4"),
    "obstore": ("0.11", "0.12"),
    "huggingface_hub": ("0.34", "2.4"),
    "transformers": ("4.57", "5.24"),
}


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what is installed, what this machine has, and what will be slow here and why."""

    measure: bool = False
    """Measure the machine's matrix products instead, and keep the rate: MFU is a share of it."""


def examine() -> list[Check]:
    """All checks, in the order of the report.  Takes seconds, most of them to import torch; never raises."""
    parts: list[tuple[str, Callable[[], Check | list[Check]]]] = [
        ("python", _python_check),
        ("packages", _package_checks),
        ("torch", _torch_check),
        ("DALI", _dali_check),
        ("versions", lambda: versions_check(installed(TESTED) | {"python": platform.python_version()})),
        ("GPU", gpus),
        ("CPU", lambda: cpu_check(read_text("/proc/cpuinfo"), cores())),
        ("matrix products", matrix_products_check),
        (
            "C++ compiler",
            lambda: compiler_check(os.environ.get("CXX"), find_compiler(), shutil.which("clang++")),
        ),
        ("Python headers", _headers_check),
        ("compile cache", _compile_cache_check),
        ("memory", memory_check),
        ("disk", disk_check),
        ("/dev/shm", shared_memory_check),
        ("open files", open_files_check),
        ("OMP_NUM_THREADS", lambda: threads_check(os.environ.get("OMP_NUM_THREADS"), cores())),
        ("loader", loader_check),
        ("matmul rate", matmul_rate_check),
    ]
    checks: list[Check] = []
    for name, part in parts:
        try:
            found = part()
            checks += found if isinstance(found, list) else [found]
        # a report on a broken machine must come out whole: the failure is the line
        except Exception as error:
            checks.append(Check(name=name, value=f"not known ({one_line_with_class(error)})"))
    return checks


def measure_and_keep_rate() -> None:
    """Measure the matrix products of the device that trains here, keep the rate for its MFU, and say it.

    Raises UserError if it cannot be kept.
    """
    import torch

    from turbomim.train.machine.cpu_products import auto_is_bfloat16
    from turbomim.train.machine.matmul_rate import about_peak, measure_rate, write_rate
    from turbomim.train.world.distributed import choose_device

    device = choose_device("auto", 0)
    bfloat16 = auto_is_bfloat16(device)
    path = write_rate(device, measure_rate(device, bfloat16=bfloat16), bfloat16=bfloat16)
    threads = f" with {counted(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    line = f"{about_peak(device, bfloat16=bfloat16)}{threads}; written to {path}"
    print_plain(Console(), line)


def print_report(checks: list[Check], console: Console | None = None) -> None:
    """Print the checks as a table, then the advice of those that are slow or missing."""
    console = console or table_console()
    colours = {"ok": "green", "slow": "yellow", "missing": "red"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(check.status, style=colours[check.status]), Text(check.name), Text(check.value))
    console.print(table)
    advice = [check for check in checks if check.status != "ok"]
    console.print(
        "\nWhat will be slow or fail here, and why" if advice else "\nNothing here will be slow.",
        style="bold",
    )
    for check in advice:
        line = Text.assemble(("• ", colours[check.status]), (f"{check.name}: ", "bold"), check.advice)
        console.print(line, soft_wrap=not console.is_terminal)


def compiler_check(named: str | None, found: str | None, clang: str | None) -> Check:
    """The line on the C++ compiler, from $CXX, what `find_compiler` found, and where clang++ is."""
    name = "C++ compiler"
    if found is not None:
        return Check(name=name, value=found)
    why = f"CXX={named} is not there" if named else "no g++"
    if named:
        remedy = "unset CXX"
    elif clang is not None:
        remedy = f"export CXX={clang}"
    else:
        remedy = "install one (apt-get install g++)"
    advice = f"torch.compile needs one on a CPU: {remedy}, or go on without: --step.compile false (slower)"
    return Check(name=name, value=why, advice=advice)


def _python_check() -> Check:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11):  # noqa: UP036 - a copied tree is not checked by pip
        return Check(name="python", value=value, missing=True, advice="needs 3.11 or newer")
    return Check(name="python", value=value)


def _package_checks() -> list[Check]:
    checks = []
    found = installed((*_ESSENTIAL, *_OPTIONAL))
    for name in _ESSENTIAL:
        if name in found:
            checks.append(Check(name=name, value=found[name]))
        else:
            advice = "turbomim cannot run without it: pip install turbomim"
            checks.append(Check(name=name, value="not installed", missing=True, advice=advice))
    for name, extra in _OPTIONAL.items():
        missing = f'not installed; only for the extra "{extra}": pip install "turbomim[{extra}]"'
        checks.append(Check(name=name, value=found.get(name, missing)))
    return checks


def _torch_check() -> Check:
    try:
        import torch
    # a broken library under torch raises whatever it likes
    except Exception as error:
        advice = "torch cannot be imported: pip install --force-reinstall torch torchvision"
        return Check(name="torch", value=one_line_with_class(error), missing=True, advice=advice)
    return Check(name="torch", value=f"{torch.__version__}, built for CUDA {torch.version.cuda or 'none'}")


def _dali_check() -> Check:
    import torch

    wheels = installed_wheels()
    # also where no GPU is seen: what is installed here may be meant for one
    problem = wheel_problem(wheels, torch.version.cuda, gpu=True)
    if problem is None:
        try:
            import_dali()
        except UserError as error:
            problem = f"{error}; without it a CPU trains all but rrc, a GPU only raw stores"
    value = ", ".join(f"{version} ({name})" for name, version in wheels.items()) or "no wheel installed"
    return Check(name="DALI", value=value, advice=problem or "")


def versions_check(versions: Mapping[str, str]) -> Check:
    """The line on what is installed, by name, that is older or newer than what the tests run with."""
    outside, older = [], []
    for name, version in versions.items():
        oldest, newest = TESTED[name]
        old = _release(version, oldest) < _release(oldest)
        if old or _release(version, newest) > _release(newest):
            outside.append(f"{name} {version} (tested {oldest} to {newest})")
        if old:
            older.append(name)
    value = f"outside the tested range: {', '.join(outside)}" if outside else "all inside the tested range"
    advice = f"what is older than tested may fail: bring {', '.join(older)} up to date" if older else ""
    return Check(name="versions", value=value, advice=advice)


def _release(version: str, like: str | None = None) -> tuple[int, ...]:
    """The numbers that a version such as 2.11.0+cu130 begins with, as many as `like` has."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = tuple(int(part) for part in numbers[0].split(".")) if numbers else ()
    return parts if like is None else parts[: like.count(".") + 1]


def _headers_check() -> Check:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if header.is_file():
        return Check(name="Python headers", value=str(header.parent))
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    advice = (
        f"Triton and torch.compile build against them: apt-get install {package}, or --step.compile false"
    )
    return Check(name="Python headers", value=f"no {header}", advice=advice)


def _compile_cache_check() -> Check:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    value = ", ".join(str(folder) for _, folder in compile_caches(device))
    try:
        check_compile_caches(device)
    except UserError as error:
        return Check(name="compile cache", value=value, advice=str(error))
    return Check(name="compile cache", value=value)


def doctor_command(argv: list[str]) -> None:
    """Print the report, or measure with --measure.  Exit code 1 where training cannot work."""
    if parse(Doctor, argv, "turbomim doctor").measure:
        measure_and_keep_rate()
        return
    checks = examine()
    print_report(checks)
    if any(check.status == "missing" for check in checks):
        raise SystemExit(1)
