"""Annotated objects of photographs, and how much of one lies in each cell of a grid: exact geometry.

Points are (y, x) in shares of the image's sides, so that a resize moves none.
Shape suffixes: V corners of an outline, E its edges, R and C lines of a grid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Objects:
    """What an annotation file says of one photograph.

    outlines: for each object its parts, (V, 2) each; sides: height and width it was annotated at.
    """

    outlines: list[list[Outline]]
    sides: tuple[float, float]


def area(outline_V2: Outline) -> float:
    """The area that an outline encloses: the shoelace formula."""
    y_V, x_V = outline_V2.T
    return abs(float(np.dot(y_V, np.roll(x_V, -1)) - np.dot(x_V, np.roll(y_V, -1)))) / 2


def cell_areas(
    outline_V2: Outline, rows_R: NDArray[np.float64], columns_C: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area of the enclosed region in each cell between grid lines, (R - 1, C - 1) float64, exact.

    rows and columns: positions of the lines, rising.  The outline must not cross itself.
    By Green's theorem: in a band between two rows, the region's part left of a line x = c is the integral
    over y of min(x, c) along the edges, with the sign of their direction.
    """
    y_E, x_E = outline_V2.T[..., None, None]
    y_end_E, x_end_E = np.roll(outline_V2, -1, axis=0).T[..., None, None]
    tall_E = y_end_E - y_E
    slope_E = np.divide(x_end_E - x_E, tall_E, out=np.zeros_like(tall_E), where=tall_E != 0)
    # each edge's part in each band of rows: (E, R - 1, 1)
    top_R, bottom_R = rows_R[:-1, None], rows_R[1:, None]
    first_ER, last_ER = np.clip(y_E, top_R, bottom_R), np.clip(y_end_E, top_R, bottom_R)
    ends_E = np.minimum(x_E, x_end_E), np.maximum(x_E, x_end_E)
    from_ER, to_ER = (np.clip(x_E + slope_E * (y_ER - y_E), *ends_E) for y_ER in (first_ER, last_ER))
    low_ER, high_ER = np.minimum(from_ER, to_ER), np.maximum(from_ER, to_ER)
    # mean of min(x, c) over x uniform in [low, high]: (E, R - 1, C)
    wide_ER = high_ER - low_ER
    inside_ERC = np.clip(columns_C, low_ER, high_ER)
    share_ERC = np.divide(
        inside_ERC - low_ER, wide_ER, out=np.ones(np.broadcast_shapes(inside_ERC.shape, wide_ER.shape)),
        where=wide_ER > 1e-12,
    )  # fmt: skip
    mean_ERC = share_ERC * (low_ER + inside_ERC) / 2 + (1 - share_ERC) * inside_ERC
    mean_ERC = np.minimum(mean_ERC, columns_C)
    left_RC = ((last_ER - first_ER) * mean_ERC).sum(0)
    areas: NDArray[np.float64] = np.abs(np.diff(left_RC, axis=1))
    return areas
