"""Pictures of a run in a report: its reconstructions over time, and any file with a caption."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from turbomim.pipeline.system.errors import one_line
from turbomim.train.report.page import Html, html_picture, tag
from turbomim.train.report.run import RunFacts

# pictures of all runs together, and of one at least
PICTURES, PICTURES_OF_A_RUN = 8, 2
STEP = re.compile(r"reconstruction-(\d{1,12})$")


def pictures_part(runs: Sequence[RunFacts]) -> list[Html]:
    """Reconstructions from first to last, evenly chosen where there are many; the last one is the largest."""
    parts = []
    most = max(PICTURES_OF_A_RUN, PICTURES // len(runs))
    for run in runs:
        found = picture_files(run.path)
        chosen = [
            found[n] for n in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))
        ]
        figures = [
            one
            for path in chosen
            if (
                one := captioned_picture(
                    path, _picture_name(path), run.problems, "last" * (path == chosen[-1])
                )
            )
        ]
        if figures:
            parts += [tag("h3", run.label)] if len(runs) > 1 else []
            if len(chosen) < len(found):
                parts.append(tag("p", f"{len(chosen)} of {len(found)} pictures.", class_="soft"))
            parts.append(tag("div", *figures, class_="pictures"))
    return parts


def picture_files(run: Path) -> list[Path]:
    """Pictures in a run's images/ by step, others after them, and the demo's beside it."""

    def order(path: Path) -> tuple[bool, int, str]:
        step = STEP.search(path.stem)
        return (step is None, int(step[1]) if step else 0, path.name)

    own = sorted((path for path in (run / "images").glob("*.png") if path.is_file()), key=order)
    return [*own, *(path for path in [run / "reconstruction.png"] if path.is_file())]


def captioned_picture(path: Path, caption: str, problems: list[str], class_: str = "") -> Html:
    """A picture with a caption; empty, and a problem, if it is damaged."""
    try:
        shown = html_picture(path, f"{caption} ({path.name})")
    # a parser given damaged bytes may raise anything, and one picture must not spoil the report
    except Exception as error:
        problems.append(f"{path} cannot be shown: {one_line(error, 300)}")
        return Html()
    return tag(
        "figure",
        tag("div", shown, class_="scroll wide", tabindex=0),
        tag("figcaption", caption),
        class_=class_,
    )


def _picture_name(path: Path) -> str:
    step = STEP.search(path.stem)
    return f"Reconstructions after step {int(step[1]):,}" if step else f"Reconstructions, {path.stem}"
