"""docs/architecture.md is true: files are where it says, and functions are in the files that it names."""

from __future__ import annotations

import re

import pytest

from tests import ROOT
from tests.floors import FLOORS

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# paragraphs and items of lists, each on one line
PARTS = [" ".join(part.split()) for part in re.split(r"\n(?=\n|\d+\. |- |\| )", TEXT)]
# a folder each, and an item of a walk each
ROOMS = {m[1]: m[2] for part in PARTS if (m := re.match(r"\*\*\[(.*?)\]\S+: (.*)", part))}
STEPS = [part for part in PARTS if re.match(r"\d+\. ", part)]

LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
CODE = re.compile(r"`([^`]+)`")


@pytest.mark.parametrize(
    "page",
    [
        "docs/architecture.md",
        "docs/adding-a-method.md",
        "docs/install.md",
        "AGENTS.md",
        "CONTRIBUTING.md",
        "README.md",
    ],
)
def test_links_lead_to_files(page: str) -> None:
    links = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not ((ROOT / page).parent / link).exists()]


def test_what_the_makefile_names_is_there() -> None:
    named = re.findall(r"tests/[\w/.]*\w", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(named) > 10 and not [path for path in named if not (ROOT / path).exists()]


def test_every_folder_has_a_paragraph() -> None:
    assert set(ROOMS) == {folder for row in FLOORS for folder in row} | {"benchmarks", "tests"}


@pytest.mark.parametrize("folder", ROOMS)
def test_a_paragraph_names_files_that_are_there(folder: str) -> None:
    names = [name for name in CODE.findall(ROOMS[folder]) if name.endswith(".py")]
    assert not [name for name in names if not any((at / name).exists() for at in (ROOT, ROOT / folder))]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step[:40])
def test_a_step_of_a_walk_names_what_its_files_have(step: str) -> None:
    paths = [ROOT / "docs" / link for link in LINK.findall(step)]
    files = [file for path in paths for file in (path.glob("*.py") if path.is_dir() else [path])]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    # identifiers, dotted or called: of these the last part
    names = [m[1] for c in CODE.findall(step) if (m := re.fullmatch(r"(?:\w+\.)*([A-Za-z_]\w*)(?:\(\))?", c))]
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]
