"""`turbomim analyze avgdist` against all pairs of pixels.

Planted, each seen to fail the test named: edges of units off by one, masked for visible, city-block
distances, a mean over all pixels (`test_distances_are_those_of_all_pairs`); seed 0 whatever is given, block
masks drawn at random (`test_masks_are_those_that_training_draws`); a recipe's patch for its unit
(`test_the_command_has_a_curve_a_unit_and_the_recipes_point`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.calls import call
from tests.runs import config_for
from tests.train.models.test_mae import with_model
from torch import Tensor

from turbomim.train.analyze.avgdist import average_distance, measure_distance
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import Config


def by_all_pairs(visible_SS: Tensor) -> float:
    """Mean over hidden pixels of the least distance to a visible one, float64."""
    hidden, seen = (~visible_SS).nonzero().double(), visible_SS.nonzero().double()
    return float(torch.cdist(hidden, seen, compute_mode="donot_use_mm_for_euclid_dist").amin(1).mean())


@pytest.mark.parametrize(("grid", "unit"), [(5, 1), (4, 3), (3, 8), (7, 2)])
def test_distances_are_those_of_all_pairs(grid: int, unit: int) -> None:
    g = torch.Generator().manual_seed(grid)
    for share in (0.1, 0.5, 0.9):
        visible = torch.rand(6, grid, grid, generator=g) < share
        visible[:, 0, 0], visible[:, -1, 1] = True, False
        ours = average_distance(visible, unit)
        for mask, found in zip(visible, ours.tolist(), strict=True):
            pixels = mask.repeat_interleave(unit, 0).repeat_interleave(unit, 1)
            assert abs(found - by_all_pairs(pixels)) < 1e-5


def test_by_hand() -> None:
    """One visible pixel in a corner of 2 x 2: 1, 1 and the diagonal."""
    visible = torch.tensor([[[True, False], [False, False]]])
    assert abs(float(average_distance(visible, 1)) - (2 + 2**0.5) / 3) < 1e-6


@pytest.mark.parametrize(("mask", "unit"), [("random", 2), ("random", 1), ("block", 1)])
def test_masks_are_those_that_training_draws(mask: str, unit: int) -> None:
    config: Config = with_model(
        config_for(Path(), Path(), data={"size": 64}, run={"seed": 7}),
        mask=mask, mask_unit=unit, mask_ratio=0.6,
    )  # fmt: skip
    keep, _ = make_model(config).random_masking(torch.zeros(5, dtype=torch.long), torch.arange(5))
    expected = []
    for kept in keep:
        patches = torch.zeros(64, dtype=torch.bool)
        patches[kept] = True
        expected.append(by_all_pairs(patches.reshape(8, 8).repeat_interleave(8, 0).repeat_interleave(8, 1)))
    found = measure_distance("block" if mask == "block" else "random", 64, 8 * unit, 0.6, 5, 7)
    assert abs(found["avgdist"] - sum(expected) / 5) < 1e-5
    assert found["masked_share"] == 1 - keep.shape[1] / 64


def test_the_command_has_a_curve_a_unit_and_the_recipes_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--ratios", "0.5,0.9", "--units", "16,56", "--samples", "3", "--recipe", "simmim-vit-b16-800e"]
    assert call(monkeypatch, "analyze", "avgdist", *words, "--out", str(tmp_path)) == 0
    found = json.loads((tmp_path / "avgdist.json").read_text())
    assert (tmp_path / "avgdist.png").read_bytes()[:4] == b"\x89PNG"
    settings = found["settings"]
    assert settings["units"] == [16, 32, 56] and settings["ratios"] == [0.5, 0.6, 0.9]
    points = {(point["unit"], point["ratio"]): point["avgdist"] for point in found["results"]}
    # more hidden is farther, and so are larger units
    assert points[16, 0.5] < points[32, 0.5] < points[56, 0.5] and points[32, 0.5] < points[32, 0.9]
    assert points[32, 0.6] == measure_distance("random", settings["size"], 32, 0.6, 3, 0)["avgdist"]
    assert found["run"] is None and "32 px" in capsys.readouterr().out


def test_small_images_have_the_units_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--recipe", "cifar10-vit-t4", "--ratios", "0.5", "--samples", "2", "--out", str(tmp_path)]
    assert call(monkeypatch, "analyze", "avgdist", *words) == 0
    assert json.loads((tmp_path / "avgdist.json").read_text())["settings"]["units"] == [4, 8, 16]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--units", "15"], "--units 15: must be a divisor of the image's 224 pixels"),
        (["--units", "16,x"], "--units 16,x: must be numbers with commas"),
        (["--units", "224"], "--units 224: must be a divisor"),
        (["--ratios", "1"], "--ratios 1: must be between 0 and 1"),
        (["--units", "112", "--ratios", "0.9"], "none of them removes some and keeps some"),
        (["--recipe", "mea"], "unknown recipe 'mea'"),
        (["--samples", "0"], "--samples 0: must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "analyze", "avgdist", *words, "--out", str(tmp_path)) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not list(tmp_path.glob("avgdist*"))
