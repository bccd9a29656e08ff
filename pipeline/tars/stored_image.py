"""Where the images of a tar lie, by the lines of its index, and the bytes of one that somebody named."""

import os
import re
from dataclasses import dataclass

from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.index import Members, index_lines
from turbomim.pipeline.tars.keys import split_key
from turbomim.pipeline.tars.manifest import index_name, load_manifest

NAMED = re.compile(r"(?P<shard>.+?\.tar):(?P<name>.+?)(:(?P<offset>\d+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """Where an image lies in its tar. name: of its member, printable; offset, size: bytes."""

    name: str
    offset: int
    size: int


def stored_images(lines: list[str], extensions: tuple[str, ...]) -> list[StoredImage]:
    """List the images of a tar by the lines of its index; extensions: of the image members.

    Raises ValueError for a line without an image.
    """
    images = []
    for number, line in enumerate(lines, 2):
        words = line.split(" ")
        at = next((at for at in range(0, len(words) - 3, 4) if words[at] in extensions), None)
        if at is None:
            raise ValueError(f"line {number:,} of its index names no image ({' or '.join(extensions)})")
        images.append(StoredImage(name=words[at + 3], offset=int(words[at + 1]), size=int(words[at + 2])))
    return images


def images_of_shard(place: Place, tar: str, members: Members) -> list[StoredImage]:
    """List the images of a tar of a split by its index file.  Raises OSError, ValueError."""
    return stored_images(index_lines(place.read(index_name(tar))), members.image)


def read_named_image(path: str | os.PathLike[str], named: str) -> bytes:
    """Read the image that `SHARD.tar:KEY` names, damaged or not; the extension and `:OFFSET` may follow.

    Raises UserError: no such shard or sample, or it cannot be read.
    """
    place = open_place(path)
    manifest = load_manifest(place)
    members = Members.of(manifest.made)
    parts = NAMED.fullmatch(named)
    helps = "give SHARD.tar:KEY, as `turbomim shard verify` prints it"
    if not parts:
        raise UserError(f"{named!r} names no image: {helps}")
    if parts["shard"] not in {shard.name for shard in manifest.shards}:
        count = counted(len(manifest.shards), "shard")
        raise UserError(f"no shard {parts['shard']!r} in {str(place)!r}, {count}: {helps}")
    try:
        images = images_of_shard(place, parts["shard"], members)
        for image in images:
            key, _ = split_key(image.name, members.keys)
            # a header may hold but the beginning of a long name: the offset, if there is one, decides
            if (
                parts["offset"] == str(image.offset)
                if parts["offset"]
                else parts["name"] in (key, image.name)
            ):
                content = bytearray(image.size)
                tars = place if manifest.tars is None else open_place(manifest.tars)
                size = tars.read_into(parts["shard"], memoryview(content), image.offset)
                return bytes(content[:size])
    except (OSError, ValueError) as error:
        said = explain(error, "`turbomim shard verify` says more")
        raise UserError(f"cannot read {named!r} of {str(place)!r}: {said}") from error
    raise UserError(
        f"no sample {parts['name']!r} in the index of {parts['shard']!r}, {counted(len(images), 'sample')}"
        + (f", the first {images[0].name!r}" if images else "")
    )
