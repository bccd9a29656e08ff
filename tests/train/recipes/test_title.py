"""What a run is called: each recipe by what it trains, and a run's recipe out of its folder.

Planted, and seen to fail: PixMIM called by its method alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from turbomim.train.folder.rundir import recipe_of
from turbomim.train.models.methods import METHODS as CLASSES
from turbomim.train.recipes.table import recipe
from turbomim.train.recipes.title import METHODS, run_title


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("mae-vit-b16-800e", "mae-vit-b16-800e (MAE, raw target)"),
        ("pixmim-vit-b16-300e", "pixmim-vit-b16-300e (MAE, gaussian target, radius 40)"),
        ("pixmim-ideal-vit-b16-300e", "pixmim-ideal-vit-b16-300e (MAE, ideal target, radius 40)"),
        ("convmae-b-1600e", "convmae-b-1600e (ConvMAE, raw target)"),
        ("simmim-swinv2-b-800e", "simmim-swinv2-b-800e (SimMIM with Swin V2, raw target)"),
    ],
)
def test_a_recipe_says_what_it_trains(name: str, title: str) -> None:
    assert run_title(recipe(name), name) == title
    assert run_title(recipe(name), None) == title.replace(name, "no recipe")


def test_every_method_has_a_name() -> None:
    assert set(METHODS) == set(CLASSES)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (json.dumps({"command": ["turbomim", "pretrain", "demo"]}), "demo"),
        (json.dumps({"command": ["turbomim", "import", "x.pth"]}), ""),
        ("[]", ""),
        ("{", ""),
        (None, ""),
    ],
)
def test_the_recipe_is_in_the_run_folder(text: str | None, name: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "env.json").write_text(text)
    assert recipe_of(tmp_path) == name
