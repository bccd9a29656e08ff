"""One image file: read whole, its header checked; nothing is decoded."""

import os
import stat
from dataclasses import dataclass

import numpy as np

from turbomim.pipeline.decoding.decode import Pixels, Undecodable, decode
from turbomim.pipeline.decoding.header import check_header
from turbomim.pipeline.making.photographs import Photograph
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import OF_THE_MACHINE, Changed, explain
from turbomim.pipeline.tars.samples import MAX_IMAGE_BYTES

MAX_REASON = 200


class RefusedImage(Exception):
    """An image that must not go into a shard; the message is the reason, without the path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedImage:
    """An image as a file holds it. extension: "jpg", "png", "webp" or "ppm".

    levels: how many of 256 an image of 16 bits keeps when it is scaled to 8; None for others.  altered: of
    `ALTERED`.
    """

    content: bytes
    extension: str
    levels: int | None = None
    altered: frozenset[str] = frozenset()


def read_image(root: str, image: Photograph, min_side: int) -> EncodedImage:
    """Read an image file whole as `read_file` does, and check it as `check_image` does."""
    return check_image(read_file(root, image), min_side)


def read_file(root: str, image: Photograph) -> bytes:
    """Read an image file whole.

    Raises RefusedImage if it is unreadable, and UserError if it is not the file that was listed.
    """
    return _read_unchanged(os.path.join(root, image.path), image)


def read_object(place: Place, image: Photograph) -> bytes:
    """Read an object of a store whole, as `read_file` does."""
    if image.bytes > MAX_IMAGE_BYTES:
        raise RefusedImage(f"{image.bytes} bytes, over the limit of {MAX_IMAGE_BYTES}")
    content = bytearray(image.bytes)
    try:
        size = place.read_into(image.path, memoryview(content), 0, version=image.version)
    except FileNotFoundError as error:
        raise _changed(place.at(image.path), "it is gone") from error
    except Changed as error:
        raise _changed(place.at(image.path), "it was written again") from error
    except OSError as error:
        raise UserError(
            f"cannot read {place.at(image.path)!r}: {explain(error, 'check the store')}"
        ) from error
    if size < image.bytes:
        raise _changed(place.at(image.path), f"it had {image.bytes:,} bytes, now {size:,}")
    return bytes(content)


def check_image(content: bytes, min_side: int) -> EncodedImage:
    """Check an image's header, and tell its true extension from its first bytes.

    Raises RefusedImage: another format, a broken header, pixels of 16 bits that do not decode, a short side
    under `min_side` pixels, or more than 178,956,970 pixels.
    """
    try:
        # what the loader refuses must not go into a shard
        header = check_header(np.frombuffer(content, np.uint8))
    except ValueError as error:
        raise RefusedImage(str(error)) from error
    if min(header.width, header.height) < min_side:
        raise RefusedImage(f"{header.width} x {header.height} pixels, short side under {min_side}")
    levels = None
    if header.bits == 16:
        # after decoding, which scales them to 8 bits
        levels = int(np.count_nonzero(np.bincount(decode_or_refuse(content).ravel(), minlength=256)))
    return EncodedImage(content=content, extension=header.format, levels=levels, altered=header.altered)


def decode_or_refuse(content: bytes, *, strict: bool = False) -> Pixels:
    """Decode an image as `decode` does.  Raises RefusedImage."""
    try:
        return decode(np.frombuffer(content, np.uint8), strict=strict)
    except Undecodable as error:
        # one line, of letters that every terminal has
        raise RefusedImage(f"does not decode: {ascii(str(error))[1:-1][:MAX_REASON]}") from error


def _read_unchanged(path: str, image: Photograph) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedImage("not a regular file")
        seen = (status.st_size, status.st_mtime_ns)
        if status.st_size > MAX_IMAGE_BYTES:
            raise RefusedImage(f"{status.st_size} bytes, over the limit of {MAX_IMAGE_BYTES}")
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        # what was there is gone; anything else was there and unreadable at the start too
        if isinstance(error, FileNotFoundError) and image.mtime_ns:
            raise _changed(path, "it is gone") from error
        if error.errno in OF_THE_MACHINE:
            raise UserError(f"cannot read {path!r}: {explain(error, '')}") from error
        raise RefusedImage(f"unreadable: {error.strerror}") from error
    if seen != (image.bytes, image.mtime_ns) or len(content) != image.bytes:
        raise _changed(path, f"it had {image.bytes:,} bytes, now {len(content):,}, or was written again")
    return content


def _changed(path: str, how: str) -> UserError:
    return UserError(
        f"{path!r} is not the file that was listed at the start: {how}; leave the source as it is until the "
        "end, and start again in a new folder"
    )
