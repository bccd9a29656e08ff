"""A split whose bytes were damaged since it was packed, so that nothing but decoding finds it."""

import os
from pathlib import Path

from turbomim.pipeline.tars.manifest import MANIFEST
from turbomim.pipeline.tars.split import Split, open_split


def with_broken_image(folder: Path, to: Path, sample: int) -> Split:
    """A copy of a split in a folder, in which the image of one sample cannot be decoded."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    split = open_split(to)
    shard, place = split.shard_path(int(split.index.shard_N[sample])), int(split.index.image_offset_N[sample])
    content = bytearray(shard.read_bytes())
    content[place : place + 64] = bytes(64)
    shard.write_bytes(content)
    # or else it is hashed when it is opened
    before = (to / MANIFEST).stat().st_mtime_ns
    os.utime(shard, ns=(before, before))
    return open_split(to)
