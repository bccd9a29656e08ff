"""How far recipes are from the first one, seed by seed: mean differences with intervals.

A seed gives every recipe the same first weights, order, crops and masks, so their differences vary less than
their scores.
"""

from __future__ import annotations

import math
import statistics
from typing import Final

from turbomim.benchmarks.learning.results import Line, by_recipe, measured, share
from turbomim.benchmarks.tables import markdown_table

# Student's t that 97.5 % lie below, by degrees of freedom from 1 on
T_975: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def mean_and_reach(differences: list[float]) -> tuple[float, float]:
    """Mean of paired differences, and half of its 95 % interval by Student's t, n - 1 degrees of freedom.

    nan for a single one; of more than eleven a little too wide, as the table ends.
    """
    mean, n = statistics.fmean(differences), len(differences)
    if n < 2:
        return mean, math.nan
    t = T_975[min(n - 2, len(T_975) - 1)]
    return mean, t * statistics.stdev(differences) / math.sqrt(n)


def differences(some: list[Line], base: list[Line], measure: str) -> list[float]:
    """Of a recipe's scores from those of another, for each seed that both have, in points of %."""
    of_seed = {line["seed"]: share(line, measure) for line in base}
    return [100 * (share(line, measure) - of_seed[line["seed"]]) for line in some if line["seed"] in of_seed]


def effects_table(lines: list[Line]) -> str:
    """Markdown: differences of every recipe from the first, with 95 % intervals; empty for one recipe.

    A recipe that shares no seed with the first is left out.
    """
    (first, base), *others = by_recipe(lines).items()
    measures = measured(lines)
    rows: list[tuple[str, ...]] = [(f"points above {first} (95 % interval)", "n", *measures)]
    for name, some in others:
        found = [differences(some, base, measure) for measure in measures]
        pairs = len(found[0])
        if not pairs:
            continue
        cells = []
        for each in found:
            mean, reach = mean_and_reach(each)
            interval = "" if math.isnan(reach) else f" ({mean - reach:+.1f} to {mean + reach:+.1f})"
            cells.append(f"{mean:+.1f}{interval}")
        rows.append((name, str(pairs), *cells))
    return markdown_table(rows, words=1) if len(rows) > 1 else ""
