"""docs/configuration.md is true: its tables are the dataclasses', its file works, its variables are read."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from tests import ROOT
from tests.settings_tables import table, with_tables

from turbomim.pipeline.places.endpoints import ENDPOINTS
from turbomim.train.recipes.command_line import config_of
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import RunConfig

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_dataclasses() -> None:
    """`python -m tests.settings_tables docs/configuration.md` makes them anew."""
    assert with_tables(PAGE) == PAGE


def test_every_setting_has_its_row_and_its_words() -> None:
    rows = table("run", RunConfig).splitlines()[6:]
    assert len(rows) == len(fields(RunConfig))
    found = next(row for row in rows if "`run.log_every`" in row)
    assert found == "| `run.log_every` | `20` | whole number | steps between log lines. *Free.* |"


def test_the_file_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.search(r"\n((?:    # mine\.yaml|    [a-z ]+:).*?)\n\n", PAGE, re.DOTALL)
    assert text is not None
    file = tmp_path / "mine.yaml"
    file.write_text(re.sub(r"(?m)^    ", "", text[1]))
    config = config_of("", {}, file)
    assert (config.run.recipe, config.run.name) == ("pixmim-vit-b16-300e", "mine")
    assert (config.model.width, config.optim.epochs, config.run.log_every) == (384, 100, 50)
    assert config.data.crop == recipe("pixmim-vit-b16-300e").data.crop


def test_the_variables_that_are_read_are_named() -> None:
    found = {name for names in ENDPOINTS.values() for name in names}
    for folder in ("train", "pipeline"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            found |= set(re.findall(r"""environ(?:\.get\(|\[)["'](\w+)["']""", text))
    assert len(found) > 12
    assert not {name for name in found if f"`{name}`" not in PAGE}


def test_links_of_the_page_lead_to_headings() -> None:
    def anchors(page: str) -> set[str]:
        heads = re.findall(r"(?m)^#+ (.+)$", page)
        return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}

    for name, anchor in re.findall(r"\]\(([\w.-]*)#([\w-]+)\)", PAGE):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8") if name else PAGE
        assert anchor in anchors(page), (name, anchor)
