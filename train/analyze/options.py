"""The options of all analyses, and what several of them check: encoders they are of, mask units.

It imports no torch, so that --help need not wait for that.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.settings.config import Device
from turbomim.train.settings.options import EncodingBatch, EncodingDevice, RunPaths

Mask = Literal["random", "block"]


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Options of an analysis that sets several encoders side by side on the same images."""

    runs: RunPaths
    """Run folders, runs/NAME; of each the newest whole checkpoint."""
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


@dataclass(frozen=True, kw_only=True)
class Frequency(SideBySide):
    """Draw the relative log amplitudes of the features after each block, of one encoder or of several."""

    runs: Annotated[
        RunPaths,
        tyro.conf.arg(
            metavar="RUN|FILE …",
            help="Run folders, runs/NAME, of each the newest whole checkpoint; or FILEs, as of `eval`.",
            help_behavior_hint="",
        ),
    ]
    images: int = 256
    """Images, drawn once and for all, the same ones for all; encoded whole and unmasked."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Draw the shares of the blocks that an MFF run fuses, over its steps."""

    run: tyro.conf.Positional[Path]
    """Run folder, runs/NAME, of method mff."""
    out: Path | None = None
    """Folder for layers.json and layers.png; RUN/analysis if not given."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Draw how much of each image, and of each object, the crops keep, before and after masking."""

    data: Annotated[str, tyro.conf.arg(metavar="SHARDS")]
    """Split whose images' sizes are read."""
    boxes: Annotated[Path | None, tyro.conf.arg(metavar="COCO.json|VOC")] = None
    """Objects of the split's images: a COCO file of instances, or a folder of PASCAL VOC's .xml files."""
    crops: str = "rrc:0.2,rrc:0.67,rrc:0.08,src"
    """Crops to compare; rrc:SCALE keeps SCALE to 1 of the area (MAE 0.2, SimMIM 0.67, evaluation 0.08)."""
    size: int = 224
    """Side of the crop in pixels."""
    mask_ratio: float = 0.75
    """Share of the mask units that are removed."""
    mask_unit: int = 16
    """Side of a mask unit in pixels."""
    samples: int = 2000
    """Images, drawn once and for all; 0 = all."""
    epochs: int = 4
    """Crops and masks of each image: those of training's epochs 0, 1, 2 …"""
    seed: int = 0
    """Of crops and masks, as run.seed."""
    out: Path = Path("analysis")
    """Folder for coverage.json and coverage.png."""


@dataclass(frozen=True, kw_only=True)
class Flatness(SideBySide):
    """Find the leading eigenvalues of the Hessian of a run's pre-training loss, or of several runs'."""

    images: int = 128
    """Images whose mean loss is looked at, the stream's first: cropped, flipped, masked as in the run."""
    steps: int = 30
    """Lanczos steps; as many vectors of all weights are kept, 4 bytes a weight."""
    top: int = 5
    """Leading eigenvalues in the table; the JSON file has all that were found."""
    seed: int = 0
    """Of the vector that Lanczos starts from."""


@dataclass(frozen=True, kw_only=True)
class AvgDist:
    """Draw the mean distance from masked to visible pixels over mask ratios, a curve a mask unit."""

    mask: Mask = "random"
    """random: each unit alike; block: rectangles of units, as model.mask block draws them."""
    size: int = 224
    """Side of the square image, pixels."""
    units: str = ""
    """Sides of a mask unit in pixels, like 16,32; of 8, 16, 32, 64 those that fit if not given."""
    ratios: str = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.75,0.8,0.9"
    """Shares of the units that are removed."""
    recipe: str = ""
    """Recipe whose size and mask are taken, whose unit is added, and whose ratio is marked."""
    samples: int = 200
    """Masks of each kind, those of sample ids 0, 1, 2 … in epoch 0."""
    seed: int = 0
    """Of the masks, as run.seed."""
    out: Path = Path("analysis")
    """Folder for avgdist.json and avgdist.png."""


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Score a run's frozen encoder under noise, blur, contrast, brightness, JPEG and pixelation."""

    run: tyro.conf.Positional[Path]
    """Run folder, runs/NAME, whose newest whole checkpoint counts; or a FILE, as `turbomim eval` takes it."""
    train: Annotated[str, tyro.conf.arg(metavar="SHARDS")]
    """Labelled split that is learned from, clean."""
    test: Annotated[str, tyro.conf.arg(metavar="SHARDS")]
    """Labelled split that is corrupted and scored."""
    samples: int = 10_000
    """Train samples, drawn once and for all; 0 = all."""
    test_samples: int = 2000
    """Test samples, drawn once and for all; 0 = all.  They are kept in memory and encoded 51 times."""
    seed: int = 0
    """Of the noise, which belongs to the test sample."""
    batch: EncodingBatch = 128
    device: EncodingDevice = "auto"
    out: Path | None = None
    """Folder for robustness.json and robustness.png; RUN/analysis if not given."""


def analysis_folder(of: Path) -> Path:
    """Where an analysis of a run goes if nothing else is said; one of a FILE goes to analysis/ here."""
    return Path("analysis") if of.is_file() else of / "analysis"


def need_run(path: Path, why: str) -> None:
    """Raise UserError for a FILE, in `turbomim eval`'s words if it is no checkpoint.  why: as they go on."""
    # a pipe is refused as a file
    if path.exists() and not path.is_dir():
        from turbomim.train.encoder.source import load_file

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
