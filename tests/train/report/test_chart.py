"""The charts and pictures of a report.

Planted bugs, and the test that each makes fail:
- the axis upside down, or scaled by another range: `test_a_chart_draws_what_it_was_given`;
- the first pictures instead of evenly chosen ones, or all: `test_many_large_pictures_stay_a_small_page`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.train.report.html_page import Element, Page, page_of, part

from turbomim.train.pictures.plot import Line
from turbomim.train.report.chart import line_chart, short_number, ticks
from turbomim.train.report.page import PICTURE_BYTES


def polyline(figure: Element, class_: str) -> list[list[float]]:
    (line,) = [e for e in figure.all("polyline") if e.attributes["class"] == class_]
    return [[float(n) for n in point.split(",")] for point in str(line.attributes["points"]).split()]


def test_a_chart_draws_what_it_was_given() -> None:
    """Lower left, the middle and upper right of the frame, which ends 5 % above the highest value."""
    steps = np.array([0.0, 50.0, 100.0])
    page = Page(line_chart("A", "step", [Line(name="a", x_N=steps, y_N=np.array([0.0, 2.0, 4.0]), colour=0)]))
    assert page.faults == []
    (x0, y0), (x1, y1), (x2, y2) = polyline(page.root, "line c0")
    assert (x0, y0, x2) == (58, 226, 418), "half of a label like 100k is right of the end"
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y1 == pytest.approx((y0 + y2) / 2) and y2 == pytest.approx(226 - (226 - 12) / 1.05, abs=0.1)
    texts = {e.text: e.attributes for e in page.root.all("text")}
    assert float(str(texts["2"]["y"])) == pytest.approx(y1 + 4, abs=0.1)
    assert float(str(texts["100"]["x"])) == x2
    assert "a from 0 to 4" in str(page.root.all("svg")[0].attributes["aria-label"])


@pytest.mark.parametrize(
    "values", [[5.0], [0.0, 0.0], [-3.0, -3.0], [1e-9, 2e-9], [1e29, -1e29], [7.0] * 700]
)
def test_a_chart_of_any_numbers_has_finite_ones(values: list[float]) -> None:
    y_N = np.array(values)
    lines = [Line(name=name, x_N=np.arange(len(y_N), dtype=float), y_N=y_N, colour=9) for name in "ab"]
    for from_zero, level in ((True, None), (False, 1.0), (False, None)):
        text = line_chart("A", "step", lines, from_zero=from_zero, level=level)
        assert Page(text).faults == [] and "nan" not in text and "inf" not in text
        svg = Page(text).root.all("svg")[0]
        (points,) = {str(e.attributes["points"]) for e in svg.all() if e.attributes.get("class") == "line c3"}
        numbers = [float(n) for n in re.split("[ ,]", points)]
        assert all(-1 <= n <= 441 for n in numbers) and len(numbers) <= 600
    assert line_chart("A", "step", [Line(name="a", x_N=y_N[:0], y_N=y_N[:0], colour=0)]) == ""


def test_axes_have_a_few_round_numbers() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0.52, 1.9) == pytest.approx([0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8])
    assert ticks(-3e-9, 1e-9) == pytest.approx([-3e-9, -2e-9, -1e-9, 0, 1e-9])
    assert [short_number(n) for n in (0, 0.0004, 950, 2500, 20_000, 1.2e6, 3e9)] == [
        "0", "0.0004", "950", "2500", "20k", "1.2M", "3G",
    ]  # fmt: skip


def test_many_large_pictures_stay_a_small_page(bare: Path) -> None:
    (bare / "images").mkdir()
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (700, 700, 3), dtype=np.uint8))
    for step in range(1, 21):
        noise.save(bare / "images" / f"reconstruction-{step:08d}.png", compress_level=0)
    page = page_of(bare)
    figures = part(page, "reconstructions").all("figure")
    captions = [f.all("figcaption")[0].text for f in figures]
    assert captions[0] == "Reconstructions after step 1" and captions[-1] == "Reconstructions after step 20"
    steps = [int(caption.rsplit(" ", 1)[1]) for caption in captions]
    assert len(steps) == 8 and {2, 3} >= set(np.diff(steps).tolist())
    assert "8 of 20 pictures." in part(page, "reconstructions").text
    assert [f.attributes["class"] for f in figures] == [""] * 7 + ["last"]
    images = page.root.all("img")
    assert sum(len(str(img.attributes["src"])) for img in images) < 8 * (PICTURE_BYTES * 4 / 3 + 100)
    assert {img.attributes["width"] for img in images} == {"400"}, "600 pixels of noise are too many bytes"
