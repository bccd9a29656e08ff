"""The rules of the house: imports go down, folders stay small, and the installed package has every module.

Each rule of tests/floors.py is also shown to fail on a planted violation.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

import turbomim
from tests import ROOT, floors, imports
from tests.floors import STAGES

SOURCES = sorted(p for stage in STAGES for p in (ROOT / stage).rglob("*.py"))
MODULES = [".".join(("turbomim", *p.relative_to(ROOT).with_suffix("").parts)) for p in SOURCES]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

# of the planted trees: two floors, two folders on the lower one
TABLE = ({"top": ""}, {"low": "", "kernels": ""})


@functools.cache
def names() -> imports.Names:
    """What every file of ours imports, as it is written there."""
    return imports.read(ROOT, *STAGES, "tests")


@functools.cache
def graph() -> imports.Graph:
    """Which files of ours each of them imports."""
    return imports.graph(names())


def check(found: Iterable[str]) -> None:
    """Fail with what was found, a line each."""
    lines = list(found)
    assert not lines, "\n".join(["", *lines])


def test_no_folder_imports_a_higher_floor() -> None:
    check(floors.upward(graph()))


def test_no_folder_imports_another_of_its_floor() -> None:
    check(floors.sideways(graph()))


def test_kernels_and_pipeline_import_themselves_alone() -> None:
    check(floors.crossing(graph()))


def test_nothing_imports_benchmarks() -> None:
    check(floors.of_benchmarks(graph()))


def test_no_files_import_each_other_in_a_circle() -> None:
    check(" and ".join(circle) for circle in imports.circles(graph()))


def test_a_folder_has_at_most_16_files() -> None:
    check(floors.crowded(graph()))


def test_every_folder_has_a_floor() -> None:
    check(floors.homeless(graph()))


def test_imports_are_absolute() -> None:
    check(floors.relative(names()))


def test_a_stage_is_imported_as_turbomim() -> None:
    check(floors.bare(names()))


def test_the_picture_is_drawn_from_the_imports() -> None:
    redraw = f"python -m tests.floors {PICTURE.relative_to(ROOT)}"
    assert PICTURE.read_text(encoding="utf-8") == floors.draw(graph()), f"draw it anew: {redraw}"


def planted(root: Path, files: dict[str, str]) -> imports.Names:
    """The imports of a small tree of files: text by path."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return imports.read(root, *{Path(name).parts[0] for name in files})


HEAD = "from turbomim.top.a import x\n"
IN_FUNCTION = f"def f() -> None:\n    {HEAD}"
UNDER_TYPE_CHECKING = f"from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    {HEAD}"
OF_MODULE = "from turbomim.top import a\n"
OF_FOLDER = "from turbomim import top\n"
DOTTED = "import turbomim.top.a\n"


@pytest.mark.parametrize(
    "text", [HEAD, IN_FUNCTION, UNDER_TYPE_CHECKING, OF_MODULE, OF_FOLDER, DOTTED], ids=repr
)
def test_an_upward_import_is_seen(text: str, tmp_path: Path) -> None:
    found = imports.graph(planted(tmp_path, {"top/a.py": "x = 1\n", "low/b.py": text}))
    (line,) = floors.upward(found, TABLE)
    assert line.startswith("low/b.py imports top")
    assert not floors.sideways(found, TABLE)


def test_an_import_that_goes_down_is_none(tmp_path: Path) -> None:
    text = "from turbomim.low.b import x\n"
    found = imports.graph(planted(tmp_path, {"top/a.py": text, "low/b.py": "x = 1\n"}))
    assert not floors.upward(found, TABLE) and not floors.sideways(found, TABLE)
    assert floors.downward(found, TABLE) == {"top": {"low"}, "low": set(), "kernels": set()}


def test_an_import_between_equal_floors_is_seen(tmp_path: Path) -> None:
    text = "from turbomim.kernels.a import x\n"
    found = imports.graph(planted(tmp_path, {"kernels/a.py": "x = 1\n", "low/b.py": text}))
    assert floors.sideways(found, TABLE) == ["low/b.py imports kernels/a.py, of its floor"]
    assert not floors.upward(found, TABLE)


def test_an_import_out_of_the_kernels_is_seen(tmp_path: Path) -> None:
    text = "from turbomim.pipeline.tars.a import x\n"
    found = imports.graph(planted(tmp_path, {"pipeline/tars/a.py": "x = 1\n", "kernels/b.py": text}))
    assert floors.crossing(found) == ["kernels/b.py imports pipeline/tars/a.py"]


def test_an_import_of_benchmarks_is_seen(tmp_path: Path) -> None:
    text = "from turbomim.benchmarks.a import x\n"
    files = {"benchmarks/a.py": "x = 1\n", "train/b.py": text, "tests/c.py": text, "benchmarks/d.py": text}
    assert floors.of_benchmarks(imports.graph(planted(tmp_path, files))) == [
        "train/b.py imports benchmarks/a.py"
    ]


def test_circles_are_seen(tmp_path: Path) -> None:
    follows = {
        "low/one.py": "low.two", "low/two.py": "low.one",
        "top/a.py": "top.b", "top/b.py": "top.c", "top/c.py": "top.a",
        # it leads to a circle and is in none, as is what a circle leads to
        "top/d.py": "top.a", "kernels/e.py": "kernels.f", "kernels/f.py": "torch",
    }  # fmt: skip
    files = {name: f"def f() -> None:\n    import turbomim.{other}\n" for name, other in follows.items()}
    files["top/b.py"] += "import turbomim.kernels.e\n"
    found = imports.graph(planted(tmp_path, files))
    assert imports.circles(found) == [["low/one.py", "low/two.py"], ["top/a.py", "top/b.py", "top/c.py"]]


def test_a_17th_file_is_seen(tmp_path: Path) -> None:
    files = {f"low/file_{number}.py": "" for number in range(16)}
    files |= {"low/conftest.py": "", "low/__init__.py": "", "low/below/a.py": ""}
    assert not floors.crowded(planted(tmp_path, files))
    files["low/one_more.py"] = ""
    assert floors.crowded(planted(tmp_path, files)) == ["low has 17 files, not 16"]


def test_a_folder_without_a_floor_is_seen(tmp_path: Path) -> None:
    files = {"top/a.py": "", "low/b.py": "", "low/new/c.py": ""}
    found = imports.graph(planted(tmp_path, files))
    assert floors.homeless(found, TABLE) == ["low/new has no floor", "kernels has a floor and no file"]


def test_relative_and_bare_imports_are_seen(tmp_path: Path) -> None:
    files = {"low/a.py": "from . import b\n", "low/b.py": "def f() -> None:\n    import kernels.philox\n"}
    found = planted(tmp_path, files)
    assert floors.relative(found) == ["low/a.py imports ..b"]
    assert floors.bare(found) == ["low/b.py imports kernels.philox"]


def test_the_picture_names_the_nearest_folders(tmp_path: Path) -> None:
    table = ({"top": "the roof"}, {"middle": "between"}, {"low": "the ground"})
    to_low = "from turbomim.low.a import x\n"
    files = {
        "low/a.py": "x = 1\n",
        "middle/b.py": to_low,
        "top/c.py": f"{to_low}from turbomim.middle.b import x\n",
    }
    found = imports.graph(planted(tmp_path, files))
    below = floors.downward(found, table)
    assert below["top"] == {"low", "middle"}
    assert floors.nearest(below, table) == {"top": ["middle"], "middle": ["low"], "low": []}
    drawn = floors.draw(found, table)
    assert [drawn.count(f">{text}<") for text in ("the roof", "→ middle", "→ low")] == [1, 1, 1]


def test_a_docstring_names_tests_of_its_file() -> None:
    """Where it says which test a planted bug makes fail."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    docs = {path: ast.get_docstring(ast.parse(text)) or "" for path, text in texts.items()}
    named = [(path, name) for path, doc in docs.items() for name in re.findall(r"`(test_\w+)`", doc)]
    assert len(named) > 100
    check(f"{path}: there is no {name}" for path, name in named if f"def {name}(" not in texts[path])


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
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"turbomim/{path.relative_to(ROOT)}" for path in SOURCES}
    assert {name for name in inside if name.endswith(".py")} == expected | {
        "turbomim/__init__.py",
        "turbomim/__main__.py",
    }
    assert {"turbomim/py.typed", f"turbomim-{turbomim.__version__}.dist-info/METADATA"} <= inside
