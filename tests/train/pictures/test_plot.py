"""What the PNG file of a run's curves holds."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from turbomim.pipeline.system.errors import UserError
from turbomim.train.pictures.plot import draw_run_curves, loss_lines, series, smooth, value_range


def records(count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"step": 10 * i, "loss": 1.2 - i / count, "lr": 1e-4 * i, "img_per_s": 200.0, "heldout_loss": None}
        for i in range(1, count + 1)
    ]
    rows[-1]["heldout_loss"] = 0.5
    return rows


def test_curves_show_both_losses_and_the_line_at_one(tmp_path: Path) -> None:
    draw_run_curves(records(40), tmp_path / "loss.png", "a run")
    sheet = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB")).astype(int)
    assert sheet.shape == (900, 1200, 3)

    def seen(red: int, green: int, blue: int) -> int:
        return int((abs(sheet - (red, green, blue)).sum(2) < 12).sum())

    # training, held-out, images per second
    assert seen(0x1F, 0x5F, 0xA8) > 500 and seen(0xD9, 0x66, 0x0A) > 50 and seen(0x2C, 0x7A, 0x3F) > 500
    # the dashed line is the one row of its colour that goes on and off across the panel
    grey = (abs(sheet - 0x6B).sum(2) < 40).sum(1)
    assert grey.max() > 500


@pytest.mark.parametrize("count", [1, 2, 3])
def test_curves_of_a_run_that_has_just_begun(tmp_path: Path, count: int) -> None:
    draw_run_curves(records(count), tmp_path / "loss.png", "a run")
    assert Image.open(tmp_path / "loss.png").size == (1200, 900)


def test_curves_without_a_loss_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of 1 log records has a loss"):
        draw_run_curves([{"step": 1, "loss": None}], tmp_path / "loss.png", "a run")


def test_curves_without_matplotlib_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r'pip install "turbomim\[plots\]"'):
        draw_run_curves(records(3), tmp_path / "loss.png", "a run")


def test_series_leaves_out_what_is_not_a_number() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": None},
        {"step": 3},
        {"step": 4, "loss": float("nan")},
    ]
    steps, values = series(rows, "loss")
    assert steps.tolist() == [1.0] and values.tolist() == [1.0]
    assert [len(part) for part in series([], "loss")] == [0, 0]


def test_smoothing_keeps_lines_and_calms_noise() -> None:
    line = np.linspace(3, 1, 50)
    np.testing.assert_allclose(smooth(line, 9), line)
    noise = np.random.default_rng(0).standard_normal(500)
    assert smooth(noise, 25)[20:-20].std() < 0.4 * noise.std()


def test_the_range_shows_every_run_and_every_held_out_loss() -> None:
    """A short run above a long one, and a held-out loss that rises; planted: a quantile of all points."""
    long = [{"step": n, "loss": 0.4, "heldout_loss": 0.4 if n < 1990 else 0.9} for n in range(2000)]
    short = [{"step": n, "loss": 1.2 - n / 100} for n in range(10)]
    lines = [line for run in (long, short) for line in loss_lines(run, "step", ("a", "b"), (0, 1))]
    low, high = value_range(lines, cut=True, level=None)
    assert low == pytest.approx(0.4) and 1.19 < high <= 1.2
    assert value_range(lines[:3], cut=True, level=None)[1] == 0.9
    # of one run the first losses may lie above
    begun = [{"step": n, "loss": 5.0 if n < 10 else 0.5} for n in range(1000)]
    lines = list(loss_lines(begun, "step", ("a", "b"), (0, 1)))
    assert value_range(lines, cut=True, level=None) == (0.5, 0.5)
