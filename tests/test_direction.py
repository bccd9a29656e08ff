"""Imports flow one way, and every module can be imported from the installed package."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import turbomim
from tests import ROOT

STAGES = ("pipeline", "kernels", "train", "benchmarks")
MAY_IMPORT = {"pipeline": {"pipeline"}, "kernels": {"kernels"}, "train": {"pipeline", "kernels", "train"}}
SOURCES = sorted(p for stage in STAGES for p in (ROOT / stage).rglob("*.py"))
MODULES = [".".join(("turbomim", *p.relative_to(ROOT).with_suffix("").parts)) for p in SOURCES]


def imported(path: Path) -> set[str]:
    """Every dotted name that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_direction(path: Path) -> None:
    stage = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in STAGES, f"{name}: import it as turbomim.{name}, or it exists twice"
        if parts[0] == "turbomim" and len(parts) > 1 and parts[1] in STAGES and stage in MAY_IMPORT:
            assert parts[1] in MAY_IMPORT[stage], f"{stage}/ must not import {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_folders_are_links_without_init(stage: str) -> None:
    link = ROOT / "src" / "turbomim" / stage
    assert link.is_symlink(), f"{link} is not a symbolic link: clone with core.symlinks=true"
    assert link.resolve() == (ROOT / stage).resolve()
    assert not (ROOT / stage / "__init__.py").exists()


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported(module: str) -> None:
    importlib.import_module(module)


def test_installed_copy_has_every_module(tmp_path: Path) -> None:
    """A wheel holds real files for every stage; built from a copy, so that no build folder stays behind."""
    copy = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "build", "runs", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("turbomim-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"turbomim/{path.relative_to(ROOT)}" for path in SOURCES}
    assert {name for name in names if name.endswith(".py")} == expected | {
        "turbomim/__init__.py",
        "turbomim/__main__.py",
    }
    assert {"turbomim/py.typed", f"turbomim-{turbomim.__version__}.dist-info/METADATA"} <= names
