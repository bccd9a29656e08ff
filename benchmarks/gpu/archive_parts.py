"""A folder as one archive in parts, for places that take small files only, and back.

    python -m turbomim.benchmarks.gpu.archive_parts PARTS TO

checks the parts in the folder PARTS and unpacks them into the folder TO.  It needs neither tar nor xz.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import lzma
import tarfile
from pathlib import Path
from typing import Final

from turbomim.pipeline.system.errors import UserError

NAME: Final = "turbomim-gpu.tar.xz"
# as sha256sum writes it, a line a part
SUMS: Final = f"{NAME}.sha256"
# the first makes machine code for x86 alike before the second looks for repetitions
FILTERS: Final = ({"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME})


def write_parts(source: Path, out: Path, limit: int) -> list[Path]:
    """Pack what is in `source` into OUT/NAME.00, .01 … of at most `limit` bytes, with their SHA-256."""
    archive = io.BytesIO()
    with lzma.open(archive, "w", filters=FILTERS) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(source, arcname=".")
    archive.seek(0)
    parts: list[Path] = []
    sums = []
    while content := archive.read(limit):
        parts.append(out / f"{NAME}.{len(parts):02d}")
        parts[-1].write_bytes(content)
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {parts[-1].name}\n")
    (out / SUMS).write_text("".join(sums), encoding="utf-8")
    return parts


def unpack_parts(parts: Path, to: Path) -> None:
    """Check the parts in the folder `parts` and unpack them into the folder `to`.

    Nothing is unpacked unless all are whole.  Raises UserError naming the first that is missing or damaged.
    """
    sums = parts / SUMS
    if not sums.is_file():
        raise UserError(f"{sums} is missing: copy all that was packed into one folder")
    archive = io.BytesIO()
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        part = parts / name
        if not part.is_file():
            raise UserError(f"{part} is missing: copy it too")
        content = part.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(
                f"{part} ({len(content):,} bytes) differs from its SHA-256 in {SUMS}: copy it again"
            )
        archive.write(content)
    archive.seek(0)
    try:
        with lzma.open(archive) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
            tar.extractall(to, filter="data")
            # a last part of an end and its checksum alone may be missing too
            while packed.read(2**20):
                pass
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"{sums} does not list all parts, or not in order: copy it again") from error


def main() -> None:
    """Check and unpack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", type=Path, help=f"folder of {NAME}.00 and so on, and {SUMS}")
    parser.add_argument("to", type=Path, help="folder to unpack into")
    options = parser.parse_args()
    try:
        unpack_parts(options.parts, options.to)
    except (UserError, OSError) as error:
        raise SystemExit(f"turbomim: {error}") from None


if __name__ == "__main__":
    main()
