"""`turbomim shard cat PATH SHARD.tar:KEY`: one image's bytes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.tars.stored_image import read_named_image
from turbomim.train.settings.flags import parse
from turbomim.train.settings.options import ShardsPath


@dataclass(frozen=True, kw_only=True)
class ShardCat:
    """Write the bytes of one image to standard output."""

    path: ShardsPath
    image: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SHARD.tar:KEY")]
    """The image, as `turbomim shard verify` and the loader name it, with or without :OFFSET."""


def shard_cat_command(argv: list[str]) -> None:
    """`turbomim shard cat PATH SHARD.tar:KEY > FILE`: write one image.  Raises UserError."""
    options = parse(ShardCat, argv, "turbomim shard cat")
    if sys.stdout.isatty():
        raise UsageError("shard cat writes the bytes of an image: send them to a file, with `> image.jpg`")
    sys.stdout.buffer.write(read_named_image(options.path, options.image))
