"""Log records to lines of numbers."""

from typing import Any

import numpy as np

from turbomim.train.pictures.lines import series, smooth


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
