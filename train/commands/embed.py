"""`turbomim embed`: what a frozen encoder makes of any images, one row each, in a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from turbomim.train.settings.flags import arguments_of, parse_with_settings
from turbomim.train.settings.options import CropSize, EncoderPath, EncodingBatch, EncodingDevice, ImageSource
from turbomim.train.terminal.streams import print_plain

if TYPE_CHECKING:
    from turbomim.train.api.embed import Embedded


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the features of whole images, nothing masked, in the order of their source."""

    run: EncoderPath
    source: ImageSource
    out: Path
    """File to write, .npz or .safetensors."""
    columns: str | None = None
    """What a list's columns are called, path=NAME,label=NAME; by their usual names if not given."""
    skip: str | None = None
    """Names in a folder to pass over, PATTERN[,PATTERN], beside hidden ones, @eaDir, __MACOSX and such."""
    pool: Literal["mean", "cls"] = "mean"
    """Mean of patch tokens (a fine-tuning's as its head reads it), or class token; after the last norm."""
    size: CropSize = None
    batch: EncodingBatch = 128
    device: EncodingDevice = "auto"


def embed_command(argv: list[str]) -> None:
    """`turbomim embed RUN|FILE SOURCE --out FILE`.  Raises UserError."""
    options, settings = parse_with_settings(Embed, argv, "turbomim embed")
    # here: it imports torch, which --help need not wait for
    from turbomim.train.api.embed import embed

    console = Console()
    arguments = arguments_of(options) | settings
    embedded = embed(arguments.pop("run"), **arguments, console=console)
    print_plain(console, what_was_written(options.out, embedded))


def what_was_written(out: Path, embedded: Embedded) -> str:
    """What was written and what was left out, in lines."""
    from turbomim.train.encoder.row_files import left_out_line

    count, width = embedded.features_ND.shape
    written = f"{out}: {count:,} x {width} float32, {embedded.feature}"
    return "\n".join([written, *left_out_line(out, embedded.left_out), *embedded.notes])
