"""`turbomim shard inspect PATH`: what is in a split."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from turbomim.pipeline.checking.contact_sheet import write_contact_sheet
from turbomim.pipeline.checking.inspect import format_summary, summarise
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.split import open_split
from turbomim.train.settings.flags import parse
from turbomim.train.settings.options import ShardsPath


@dataclass(frozen=True, kw_only=True)
class ShardInspect:
    """Print what is in a split: counts, sizes, classes, resolutions, formats."""

    path: ShardsPath
    sample: int = 1000
    """Images whose headers are read for the histogram of resolutions."""
    sheet: Path | None = None
    """PNG file to draw: 48 photographs, evenly spaced over the split."""


def shard_inspect_command(argv: list[str]) -> None:
    """`turbomim shard inspect PATH`: print what is in a split.  Raises UserError."""
    options = parse(ShardInspect, argv, "turbomim shard inspect")
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {str(options.sheet)!r}: must be a file whose name ends in .png")
    split = open_split(options.path)
    sys.stdout.write(format_summary(summarise(split, options.sample)) + "\n")
    if options.sheet is not None:
        drawn = write_contact_sheet(split, options.sheet)
        sys.stdout.write(f"sheet        {counted(drawn, 'image')} in {str(options.sheet)!r}\n")
