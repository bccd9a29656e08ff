"""The digest of a file."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 22


def file_sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(descriptor: int, advance: Callable[[int], object] = lambda _: None) -> str:
    """Hash an open file in steps; `advance` hears the bytes of each."""
    digest, place = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, CHUNK, place):
        digest.update(chunk)
        place += len(chunk)
        advance(len(chunk))
    return digest.hexdigest()
