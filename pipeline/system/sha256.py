"""The digest of a file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

# bytes read at once, of a store in one request
PART = 8 * 2**20


def file_sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(read_at: Callable[[int, int], bytes], advance: Callable[[int], object]) -> str:
    """Hash what `read_at` gives of a size at a place, in parts; `advance` hears the bytes of each."""
    digest, place = hashlib.sha256(), 0
    while chunk := read_at(PART, place):
        digest.update(chunk)
        place += len(chunk)
        advance(len(chunk))
    return digest.hexdigest()
