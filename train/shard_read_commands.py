"""`turbomim shard inspect`, as people see it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from turbomim.pipeline.inspect import format_summary, inspect_split
from turbomim.train.options import parse


@dataclass(frozen=True, kw_only=True)
class ShardInspect:
    """Print what is in a split: counts, sizes, classes, resolutions, formats."""

    path: tyro.conf.Positional[Path]
    """Folder that `turbomim shard make` wrote."""
    sample: int = 1000
    """Images whose headers are read for the histograms."""


def inspect(argv: list[str]) -> None:
    """`turbomim shard inspect PATH`: print what is in a split.  Raises UserError."""
    options = parse(ShardInspect, argv, "turbomim shard inspect")
    sys.stdout.write(format_summary(inspect_split(options.path, options.sample)) + "\n")
