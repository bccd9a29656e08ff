"""One image file: read whole, its header checked; nothing is decoded."""

import os
import stat
from dataclasses import dataclass

import numpy as np

from turbomim.pipeline.decoding.decode import Pixels, Undecodable, decode
from turbomim.pipeline.decoding.header import check_header
from turbomim.pipeline.making.photographs import Photograph
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import OF_THE_MACHINE, explain
from turbomim.pipeline.tars.samples import MAX_IMAGE_BYTES

MAX_REASON = 200


class RefusedImage(Exception):
    """An image that must not go into a shard; the message is the reason, without the path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedImage:
    """An image as a file holds it. extension: "jpg", "png", "webp" or "ppm".

    levels: how many of 256 an image of 16 bits keeps when it is scaled to 8; None for others.
    """

    content: bytes
    extension: str
    levels: int | None = None


def read_image(root: str, image: Photograph, min_side: int) -> EncodedImage:
    """Read an image file whole, check its header, and tell its true extension from its first bytes.

    Raises RefusedImage: unreadable, another format, a broken header, pixels of 16 bits that do not decode, a
    short side under `min_side` pixels, or more than 178,956,970 pixels.  Raises UserError if it is not the
    file that was listed.
    """
    content = _read_unchanged(os.path.join(root, image.path), image)
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
    return EncodedImage(content=content, extension=header.format, levels=levels)


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
