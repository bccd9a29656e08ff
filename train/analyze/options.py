"""What analyses share: options, encoders they are of (a run, or a FILE as in `turbomim eval`), mask units."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.encoder.source import load_file
from turbomim.train.settings.config import Device


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Options of an analysis that sets several encoders side by side on the same images."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, runs/NAME, of each the newest whole checkpoint; frequency takes FILEs too, as eval."""
    data: Annotated[str, tyro.conf.arg(metavar="SHARDS")]
    """Split whose images are looked at."""
    batch: int = 32
    """Images computed at once: decides speed and memory alone."""
    device: Device = "auto"
    """Where it is computed, in float32."""
    out: Path | None = None
    """Folder for the JSON file and the picture; analysis/ in the first run's if not given."""

    @property
    def folder(self) -> Path:
        """Where results go.  Raises UsageError if no run is given."""
        if not self.runs:
            raise UsageError("give at least one run folder, runs/NAME")
        return self.out or analysis_folder(self.runs[0])


def analysis_folder(of: Path) -> Path:
    """Where an analysis of a run goes if nothing else is said; one of a FILE goes to analysis/ here."""
    return Path("analysis") if of.is_file() else of / "analysis"


def need_run(path: Path, why: str) -> None:
    """Raise UserError for a FILE, in `turbomim eval`'s words if it is no checkpoint.  why: as they go on."""
    # a pipe is refused as a file
    if path.exists() and not path.is_dir():
        load_file(path, {})
        raise UserError(f"{path} is a checkpoint and no run: {why}; give a run folder, runs/NAME")


def check_unit(flag: str, unit: int, size: int, of: str) -> None:
    """Raise UsageError if units of `unit` pixels do not tile a square of `size`, or one is all of it.

    of: what has that size, for the message.
    """
    if not (1 <= unit < size and size % unit == 0):
        raise UsageError(f"{flag} {unit}: must be a divisor of the {of}'s {size} pixels, and not all of it")


def kept_units(size: int, unit: int, ratio: float) -> int:
    """Units that stay visible: MAE's int(N * (1 - ratio))."""
    return int((size // unit) ** 2 * (1 - ratio))
