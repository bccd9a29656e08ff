"""Line charts as inline SVG: no script, no font, no file; colours follow the page's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from turbomim.train.pictures.pixels import FloatArray
from turbomim.train.pictures.plot import Line, value_range
from turbomim.train.report.page import Html, tag
from turbomim.train.report.style import COLOURS

# units of the drawing: about the pixels of a phone, so that text stays readable there
WIDTH, HEIGHT = 440, 270
# right: half of a label like 100k, which stands under the end of the axis
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 12, 44
# points of a line: more cannot be told apart
POINTS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The ranges that the axes show."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def at(self, x_N: FloatArray, y_N: FloatArray) -> list[tuple[float, float]]:
        """Where points are drawn; what lies above the frame, on its upper edge."""
        across_N = LEFT + (x_N - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)
        up_N = HEIGHT - BOTTOM - (y_N - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)
        return list(zip(across_N.tolist(), np.maximum(up_N, TOP).tolist(), strict=True))


def line_chart(
    title: str,
    x_label: str,
    lines: Sequence[Line],
    *,
    from_zero: bool = True,
    cut: bool = False,
    level: float | None = None,
) -> Html:
    """A figure with axes, lines, a legend where it is needed, and a text for those who cannot see it.

    from_zero: the y axis begins at 0.  cut: the highest 2 % of values may be cut off, and the chart says so.
    level: a height that predicting nothing has, drawn dashed.  Lines without points are left out; with none
    left the chart is empty.
    """
    drawn = [line for line in lines if len(line.x_N)]
    if not drawn:
        return Html()
    frame = _frame(drawn, from_zero, cut, level)
    parts = _axes(x_label, frame)
    if level is not None:
        ends_2 = np.array([frame.x_low, frame.x_high])
        parts.append(_path(frame.at(ends_2, np.full(2, level)), "axis dashed"))
    for line in drawn:
        points = frame.at(_thin(line.x_N), _thin(line.y_N))
        parts.append(_path(points, _shown(line)))
        if line.marks or len(points) == 1:
            dot = f"c{line.colour % COLOURS}"
            parts += [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_=dot) for x, y in points]
    said = [f"{line.name} from {line.y_N[0]:.4g} to {line.y_N[-1]:.4g}" for line in drawn if line.name]
    label = f"{title} over {x_label}: {'; '.join(said)}"
    svg = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    legend = _legend(drawn, level)
    if any(line.y_N.max() > frame.y_high for line in drawn):
        legend.append(
            tag("p", f"Values above {short_number(frame.y_high)} are on the upper edge.", class_="soft")
        )
    return tag("figure", tag("h3", title), svg, tag("figcaption", *legend) if legend else Html())


def _frame(lines: Sequence[Line], from_zero: bool, cut: bool, level: float | None) -> Frame:
    x_N = np.concatenate([line.x_N for line in lines])
    low, high = value_range(lines, cut=cut, level=level)
    if from_zero:
        low = min(low, 0.0)
    (x_low, x_high), (y_low, y_high) = _span(float(x_N.min()), float(x_N.max())), _span(low, high)
    return Frame(x_low=x_low, x_high=x_high, y_low=y_low, y_high=y_high + 0.05 * (y_high - y_low))


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers in a range."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda nice: abs(nice - raw / power))
    first = math.ceil(low / step)
    return [step * n for n in range(first, math.floor(high / step) + 1)]


def short_number(number: float) -> str:
    """A number as an axis has it: 250k, 1.2M, 0.0004."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 10 * size or (size > 1e3 and abs(number) >= size):
            return f"{number / size:.4g}{letter}"
    return f"{number:.4g}"


def _span(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    return (low, 1.0) if low == 0 else (low - abs(low) / 2, low + abs(low) / 2)


def _thin(values_N: FloatArray) -> FloatArray:
    """Means of neighbours, at most POINTS."""
    if len(values_N) <= POINTS:
        return values_N
    return np.array([part.mean() for part in np.array_split(values_N, POINTS)])


def _shown(line: Line) -> str:
    return " ".join(["line", *line.look.split(), f"c{line.colour % COLOURS}"])


def _path(points: Sequence[tuple[float, float]], shown: str) -> Html:
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=shown)


def _axes(x_label: str, frame: Frame) -> list[Html]:
    parts = []
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in ticks(frame.y_low, frame.y_high):
        ((_, y),) = frame.at(np.array([frame.x_low]), np.array([value]))
        parts.append(_path([(LEFT, y), (right, y)], "grid"))
        parts.append(tag("text", short_number(value), x=LEFT - 6, y=f"{y + 4:.1f}", text_anchor="end"))
    for value in ticks(frame.x_low, frame.x_high):
        ((x, _),) = frame.at(np.array([value]), np.array([frame.y_low]))
        parts.append(tag("text", short_number(value), x=f"{x:.1f}", y=bottom + 17, text_anchor="middle"))
    parts.append(_path([(LEFT, bottom), (right, bottom)], "axis"))
    middle = (LEFT + right) / 2
    return [*parts, tag("text", x_label, x=f"{middle:.1f}", y=HEIGHT - 6, text_anchor="middle")]


def _legend(lines: Sequence[Line], level: float | None) -> list[Html]:
    named = [(line.name, _shown(line)) for line in lines if line.name]
    if level is not None:
        named.append((f"predicting nothing ({level:g})", "axis dashed"))
    if len(named) < 2:
        return []
    entries = [
        tag("li", tag("svg", _path([(0, 6), (30, 6)], shown), viewBox="0 0 30 12", aria_hidden="true"), name)
        for name, shown in named
    ]
    return [tag("ul", *entries, class_="legend")]
