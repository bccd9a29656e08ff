"""A tracker: a program that draws the curves of runs, fed while a run goes.  What each must offer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Tracker(Protocol):
    """One run at one tracker.  Any method may raise anything: beside.py tries again, and says so."""

    # the last step that the tracker has of this run already; what comes up to it is not sent again
    last_step: int

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of a step by name."""

    def picture(self, step: int, path: Path) -> None:
        """A PNG file of a step."""

    def close(self, *, failed: bool) -> None:
        """Say that no more comes, and whether an error ended the run."""
