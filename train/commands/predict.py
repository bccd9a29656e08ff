"""`turbomim predict`: the classes of any images by a fine-tuning, in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from turbomim.pipeline.system.words import counted
from turbomim.train.settings.flags import arguments_of, parse
from turbomim.train.settings.options import EncodingBatch, EncodingDevice, ImageSource
from turbomim.train.terminal.streams import print_plain

if TYPE_CHECKING:
    from turbomim.train.api.predict import Predictions


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Write the likeliest classes of images, and their probabilities, in the order of their source."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FINETUNING")]
    """Folder of a fine-tuning, RUN/eval/finetune, whose newest whole checkpoint counts."""
    source: ImageSource
    out: Path
    """File to write, .csv, .jsonl or .npz."""
    top: int = 5
    """How many of the likeliest classes an image gets; all if there are fewer."""
    columns: str | None = None
    """What a list's columns are called, path=NAME,label=NAME; by their usual names if not given."""
    skip: str | None = None
    """Names in a folder to pass over, PATTERN[,PATTERN], beside hidden ones, @eaDir, __MACOSX and such."""
    batch: EncodingBatch = 128
    device: EncodingDevice = "auto"


def predict_command(argv: list[str]) -> None:
    """`turbomim predict FINETUNING SOURCE --out FILE`.  Raises UserError."""
    options = parse(Predict, argv, "turbomim predict")
    # here: it imports torch, which --help need not wait for
    from turbomim.train.api.predict import predict

    console = Console()
    found = predict(**arguments_of(options), console=console)
    print_plain(console, what_was_written(options.out, found))


def what_was_written(out: Path, found: Predictions) -> str:
    """What was written and what was left out, in lines."""
    from turbomim.train.encoder.row_files import left_out_line

    count, top = found.top_NK.shape
    lines = [f"{out}: {counted(count, 'image')}, the {top} likeliest of {len(found.classes):,} classes"]
    if found.top1 is not None:
        labelled = int((found.labels_N >= 0).sum())
        lines.append(f"top-1 {100 * found.top1:.2f} % of {counted(labelled, 'image')} with a label")
    return "\n".join([*lines, *left_out_line(out, found.left_out), *found.notes])
