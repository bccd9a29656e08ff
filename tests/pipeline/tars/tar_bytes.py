"""Tar files byte by byte, for tests: any header, right or hostile, and whole tars by Python's tarfile."""

import io
import tarfile
from pathlib import Path

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"


def header(
    name: bytes,
    size: int | bytes,
    kind: bytes = b"0",
    *,
    magic: bytes = USTAR,
    prefix: bytes = b"",
    checksum: int | None = None,
) -> bytes:
    """One header.  size: a number, or the 12 bytes of the field; checksum: None for the right one."""
    size_field = size if isinstance(size, bytes) else b"%011o\0" % size
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size_field + b"00000000000\0"
    tail = kind + bytes(100) + magic.ljust(8, b"\0") + bytes(80) + prefix.ljust(155, b"\0") + bytes(12)
    total = sum(head) + 8 * ord(" ") + sum(tail) if checksum is None else checksum
    return head + b"%06o\0 " % total + tail


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def member(name: bytes, content: bytes = b"", kind: bytes = b"0") -> bytes:
    return header(name, len(content), kind) + padded(content)


def pax(**records: bytes) -> bytes:
    """The content of a PAX header; keyword `a__b` is the key `a.b`."""
    lines = []
    for key, value in records.items():
        body = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        lines.append(str(length).encode() + body)
    return b"".join(lines)


def write_tar(path: Path, files: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
