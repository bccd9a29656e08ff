"""What a line chart is made of: log records to lines of numbers, whoever draws them.

Suffix: N points of a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turbomim.train.pictures.pixels import FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Line:
    """A curve. x_N, y_N: float64; look: "", "faint" or "dashed"; marks: a dot at each point.

    colour: a place in the drawer's palette.  A line without a name is not in the legend.
    """

    name: str
    x_N: FloatArray
    y_N: FloatArray
    colour: int
    look: str = ""
    marks: bool = False


def series(records: Sequence[Mapping[str, Any]], name: str, x: str = "step") -> tuple[FloatArray, FloatArray]:
    """(x, values) of the records that have both, and of those the finite values called `name`, as float64."""
    pairs = [(r[x], r[name]) for r in records if r.get(name) is not None and r.get(x) is not None]
    x_N, y_N = np.asarray(pairs, dtype=np.float64).reshape(-1, 2).T
    finite_N = np.isfinite(y_N)
    return x_N[finite_N], y_N[finite_N]


def smooth(values: FloatArray, window: int) -> FloatArray:
    """Mean over a centred window that shrinks on both sides near an end, so that a slope does not drift."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    where = np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(where, len(values) - 1 - where))
    means: FloatArray = (sums[where + half + 1] - sums[where - half]) / (2 * half + 1)
    return means


def loss_lines(
    records: Sequence[Mapping[str, Any]], x: str, names: tuple[str, str], colours: tuple[int, int]
) -> tuple[Line, Line, Line]:
    """Of one run the loss of each log record, the same smoothed, and the held-out loss, over `x`.

    names, colours: of the training and of the held-out loss.  A loss that was never logged has no points.
    """
    x_N, y_N = series(records, "loss", x)
    logged = Line(name="", x_N=x_N, y_N=y_N, colour=colours[0], look="faint")
    smooth_N = smooth(y_N, max(3, len(y_N) // 25))
    smoothed = Line(name=names[0], x_N=x_N, y_N=smooth_N, colour=colours[0])
    x_N, y_N = series(records, "heldout_loss", x)
    heldout = Line(name=names[1], x_N=x_N, y_N=y_N, colour=colours[1], look="dashed", marks=True)
    return logged, smoothed, heldout


def value_range(lines: Sequence[Line], *, cut: bool, level: float | None) -> tuple[float, float]:
    """The lowest and the highest value to show, `level` among them.

    cut: the highest 2 % of values may lie above: the first few losses would flatten the rest.
    """
    y_N = np.concatenate([line.y_N for line in lines])
    levels = [] if level is None else [level]
    top = np.quantile(y_N, 0.98) if cut else y_N.max()
    return min([float(y_N.min()), *levels]), max([float(top), *levels])
