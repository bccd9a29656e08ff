"""GPU code for other GPUs in a shared library, blanked, so that the library packs small.

Two sections of an ELF file hold GPU code, each a row of containers.  A container holds the same code for
several architectures, an entry each: a header with the architecture, then PTX or machine code.  Source: the
layout is not published; it is that of the libraries of DALI 2.4.0, and cuobjdump lists the same entries.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

SECTIONS: Final = (b".nv_fatbin", b"__nv_relfatbin")
# magic, version, bytes of this header, bytes of all entries
CONTAINER: Final = struct.Struct("<IHHQ")
MAGIC: Final = 0xBA55ED50
# kind, version, bytes of the header, bytes of the payload, -, -, minor, major, architecture; more may follow
ENTRY: Final = struct.Struct("<HHIQIIHHI")
MACHINE_CODE: Final = 2


class Entry(NamedTuple):
    """Code for one architecture; sm: 90 for sm_90; start, size: place of the payload, bytes."""

    kind: int
    sm: int
    start: int
    size: int


def thin(library: bytearray, sm: int) -> tuple[int, int]:
    """Blank the code of all architectures but `sm`, in place; bytes of GPU code, and how many of them stay.

    Payloads become zeros; headers, sizes and offsets stay, so that CUDA finds what it looks for.  A container
    without machine code for `sm`, or of another layout, stays whole, and so does what is no 64-bit ELF file.
    """
    total = kept = 0
    for at, end in _sections(library):
        while at + CONTAINER.size <= end:
            magic, _, head, body = CONTAINER.unpack_from(library, at)
            if magic != MAGIC:
                # containers begin at multiples of 8 bytes
                at += 8
                continue
            entries = _entries(library, at + head, at + head + body)
            others = [entry for entry in entries if (entry.kind, entry.sm) != (MACHINE_CODE, sm)]
            total, kept = total + body, kept + body
            if len(others) < len(entries):
                for entry in others:
                    library[entry.start : entry.start + entry.size] = bytes(entry.size)
                    kept -= entry.size
            at += head + body
    return total, kept


def _sections(library: bytearray) -> Iterator[tuple[int, int]]:
    """First and last offset of the sections with GPU code."""
    # 64 bits, little-endian
    if library[:6] != b"\x7fELF\2\1":
        return
    (table,) = struct.unpack_from("<Q", library, 0x28)
    size, count, names = struct.unpack_from("<HHH", library, 0x3A)
    # place of the name, type, flags, address, offset, bytes
    heads = [struct.unpack_from("<IIQQQQ", library, table + number * size) for number in range(count)]
    for name, _, _, _, offset, length in heads:
        start = heads[names][4] + name
        if bytes(library[start : library.index(b"\0", start)]) in SECTIONS:
            yield offset, offset + length


def _entries(library: bytearray, at: int, end: int) -> list[Entry]:
    """Give the entries of a container, or none if they do not fill it exactly."""
    entries = []
    while at + ENTRY.size <= end:
        kind, _, head, size, _, _, _, _, sm = ENTRY.unpack_from(library, at)
        if head < ENTRY.size:
            return []
        entries.append(Entry(kind, sm, at + head, size))
        at += head + size
    return entries if at == end else []
