"""The members of any tar, header by header: which bytes are which file.  No content is read or extracted.

USTAR, PAX and GNU long names are followed.  Where readers of tar disagree or end early without a word, this
one says what is wrong at which byte: a name or a size given twice, a link, a device, a header that is none.
Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from turbomim.pipeline.tars.open_tar import BadTar, OpenTar
from turbomim.pipeline.tars.tar import BLOCK, round_up

NAME: Final = slice(0, 100)
SIZE: Final = slice(124, 136)
CHECKSUM: Final = slice(148, 156)
KIND: Final = slice(156, 157)
MAGIC: Final = slice(257, 265)
PREFIX: Final = slice(345, 500)
POSIX_MAGIC: Final = b"ustar\x0000"
GNU_MAGIC: Final = b"ustar  \0"

FILE_KINDS: Final = (b"0", b"\0", b"7")
FOLDER: Final = b"5"
PAX_NEXT, PAX_ALL, GNU_NAME, GNU_LINK = b"x", b"g", b"L", b"K"
REFUSED: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a fifo",
    b"S": "a sparse file",
}
COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

# bytes of a long name or of other extended headers; a path has at most 4,096
MAX_EXTENSION: Final = 1 << 20
# the first size that eleven octal digits cannot hold
OCTAL_LIMIT: Final = 8**11
CHUNK: Final = 1 << 20
REPACK: Final = "repack it as plain files, `tar --format=ustar --dereference --hard-dereference`"


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """A regular file in a tar. name: as stored, any bytes but NUL; offset: its first data byte."""

    name: bytes
    offset: int
    size: int


def walk_tar(tar: OpenTar) -> Iterator[TarMember]:
    """Yield the regular files of a tar in order; folders are passed over.

    Raises BadTar: a header without a right checksum, a member that reaches beyond the file, no end or
    something behind it, contradicting headers, anything but files and folders.
    """
    tar_bytes = tar.size
    place = 0
    extended: dict[str, bytes] = {}
    while (header := _header(tar, place)) is not None:
        kind, size = header[KIND], _size(header, place)
        end = place + BLOCK + round_up(size, BLOCK)
        if kind in (PAX_NEXT, PAX_ALL, GNU_NAME, GNU_LINK):
            if size > MAX_EXTENSION:
                raise BadTar(place, f"{size:,} bytes of extended header, over the limit of {MAX_EXTENSION:,}")
            content = tar.read_at(size, place + BLOCK)
            if len(content) < size:
                raise _cut(place, "an extended header", end, tar_bytes)
            _extend(extended, kind, content, place)
        else:
            member = _member(header, size, extended, place)
            end = place + BLOCK + round_up(member.size, BLOCK)
            if end > tar_bytes:
                raise _cut(place, repr(member.name.decode(errors="replace")), end, tar_bytes)
            if kind in FILE_KINDS and not (kind == b"\0" and member.name.endswith(b"/")):
                yield member
            extended = {}
        place = end
    if extended:
        raise BadTar(place, "an extended header is the last member: the file it belongs to is missing")
    _check_end(tar, place)


def _header(tar: OpenTar, place: int) -> bytes | None:
    """Read the header at `place` and check that it is one; None where the archive's end begins."""
    header = tar.read_at(BLOCK, place)
    if len(header) < BLOCK:
        what = (
            "the file is empty" if tar.size == 0 else "the file ends without the zero blocks of a tar's end"
        )
        raise BadTar(place, f"{what}: cut off?")
    if header.count(0) == BLOCK:
        return None
    if place == 0:
        for magic, name in COMPRESSED.items():
            if header.startswith(magic):
                raise BadTar(0, f"compressed by {name}: samples are read by offset, so decompress it first")
    # the sum counts its own field as blanks
    total = sum(header) - sum(header[CHECKSUM]) + 8 * ord(" ")
    if _octal(header[CHECKSUM]) != total:
        raise BadTar(place, "no tar header here, its checksum is wrong: damaged?")
    if header[MAGIC] not in (POSIX_MAGIC, GNU_MAGIC):
        raise BadTar(place, f"a header of the old v7 format (magic {header[MAGIC]!r}); {REPACK}")
    return header


def _member(header: bytes, size: int, extended: Mapping[str, bytes], place: int) -> TarMember:
    """Put together what the header and the extended headers before it say about a member."""
    name = extended.get("path") or _field(header[NAME])
    if "path" not in extended and header[MAGIC] == POSIX_MAGIC and (prefix := _field(header[PREFIX])):
        name = prefix + b"/" + name
    shown = repr(name.decode(errors="replace"))
    kind = header[KIND]
    if kind not in (*FILE_KINDS, FOLDER):
        what = REFUSED.get(kind, f"a member of the unknown kind {kind!r}")
        raise BadTar(place, f"{shown} is {what}, only files and folders are read; {REPACK}")
    if "size" in extended:
        if not extended["size"].isdigit():
            raise BadTar(place, f"the size of {shown} is {extended['size'][:40]!r}")
        other, size = size, int(extended["size"][:19])
        # header and PAX record may differ only where the header cannot hold the size
        if size != other and size < OCTAL_LIMIT:
            raise BadTar(place, f"{shown} has two sizes, {other:,} and {size:,} bytes; {REPACK}")
    if kind == FOLDER and size:
        raise BadTar(place, f"the folder {shown} has {size:,} bytes of content")
    return TarMember(name=name, offset=place + BLOCK, size=size)


def _extend(extended: dict[str, bytes], kind: bytes, content: bytes, place: int) -> None:
    """Keep what an extended header says about the next member's path and size."""
    if kind == GNU_LINK:
        return
    if kind == GNU_NAME:
        extended["path"] = _whole_name(content, place)
        return
    records = _pax_records(content, place)
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise BadTar(place, f"a sparse file; {REPACK}")
    for key in (b"path", b"size"):
        if key in records and kind == PAX_ALL:
            raise BadTar(place, f"one {key.decode()} for every member of the tar; {REPACK}")
        if key in records:
            value = records[key]
            extended[key.decode()] = _whole_name(value, place) if key == b"path" else value


def _pax_records(content: bytes, place: int) -> dict[bytes, bytes]:
    """Parse the records `LENGTH KEY=VALUE\\n` of a PAX header."""
    records, at = {}, 0
    while at < len(content):
        digits = re.match(rb"([1-9][0-9]{0,6}) ", content[at : at + 8])
        record = content[at : at + int(digits[1])] if digits else b""
        key, equals, value = record[digits.end() if digits else 0 : -1].partition(b"=")
        if not digits or len(record) < int(digits[1]) or not record.endswith(b"\n") or not equals:
            raise BadTar(place, f"a broken PAX header: {content[at : at + 40]!r}")
        records[key] = value
        at += len(record)
    return records


def _whole_name(content: bytes, place: int) -> bytes:
    """Give a long name; one with something behind a NUL would be another name to another reader."""
    name, _, rest = content.partition(b"\0")
    if rest.strip(b"\0") or not name:
        raise BadTar(place, f"a long name that is empty or holds a NUL byte: {content[:40]!r}")
    return name


def _size(header: bytes, place: int) -> int:
    """Read a size, octal or where that is too small base-256."""
    field = header[SIZE]
    if field[0] == 0x80:
        size: int | None = int.from_bytes(field[1:], "big")
        if size is not None and size < OCTAL_LIMIT:
            raise BadTar(place, f"{size:,} bytes in base-256, which not every reader knows; {REPACK}")
    else:
        size = _octal(field)
    if size is None:
        raise BadTar(place, f"the size is {field!r}, not an octal number")
    return size


def _octal(field: bytes) -> int | None:
    digits = _field(field).strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else None


def _field(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _cut(place: int, what: str, end: int, tar_bytes: int) -> BadTar:
    return BadTar(place, f"{what} goes on to byte {end:,}, the file ends at {tar_bytes:,}: cut off?")


def _check_end(tar: OpenTar, place: int) -> None:
    """Check that the tar ends at `place`: two zero blocks, and nothing but zeros behind."""
    if len(tar.read_at(2 * BLOCK, place)) < 2 * BLOCK:
        raise BadTar(place, "one zero block instead of the two of a tar's end: cut off?")
    while chunk := tar.read_at(CHUNK, place):
        if chunk.count(0) != len(chunk):
            behind = place + len(chunk) - len(chunk.lstrip(b"\0"))
            raise BadTar(
                behind, "data behind the tar's end, which no reader sees: damaged, or two tars in one?"
            )
        place += len(chunk)
