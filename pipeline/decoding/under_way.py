"""The samples that a loader has under way, in a file: what a process that dies leaves to the next one.

A decoder that meets an image it cannot survive takes the process with it, and so does the system when memory
runs out.  The file is written before any image of a batch is decoded and goes with the loader; where it
is found, a process died.  A write into the page cache is enough: it outlives the process.
Shape suffixes: N samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.remedies import reason

PREFIX: Final = "decoding-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """Where the loaders of a rank say what is under way, and the samples that ended a process before.

    folder: of the run; bad: by a split's fingerprint, the reason of each such sample.
    """

    folder: Path
    rank: int
    bad: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def open(self, fingerprint: str) -> UnderWay:
        """Begin a file for a loader of this split; another loader may have one too.

        Raises OSError: a rank's machine may have no such folder.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            try:
                return UnderWay(self.folder / f"{PREFIX}{self.rank}-{number}-{fingerprint}")
            except FileExistsError:
                number += 1


class UnderWay(Closing):
    """The file of one loader.  Raises OSError if it is there, or cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def note(self, batches: Iterable[NDArray[np.int64]]) -> None:
        """Write the numbers of all samples that are, or will be next, in a decoder's hands."""
        ids_N = np.concatenate([*batches])
        os.pwrite(self._file, np.concatenate([[len(ids_N)], ids_N]).astype("<i8").tobytes(), 0)

    def close(self) -> None:
        """Take the file away: this process lives."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._path.unlink(missing_ok=True)


def known_bad(journal: Journal | None, fingerprint: str) -> Mapping[int, str]:
    """Reasons of a split's samples that ended a process before, by their number."""
    return {} if journal is None else journal.bad.get(fingerprint, {})


def begin(journal: Journal | None, fingerprint: str, notify: Callable[[str], None]) -> UnderWay | None:
    """Begin a file for a loader of this split; None, with a word why, if there is no journal, or no place."""
    if journal is None:
        return None
    try:
        return journal.open(fingerprint)
    except OSError as error:
        notify(
            f"{str(journal.folder)!r} cannot be written by this rank ({reason(error)}): if a photograph ends "
            "its process, the next start does not know which"
        )
        return None


def left_under_way(folder: Path) -> dict[str, list[int]]:
    """What dead processes had under way: the numbers of samples, by the fingerprint of their split."""
    found: dict[str, set[int]] = {}
    for path in sorted(folder.glob(f"{PREFIX}*")):
        numbers = np.frombuffer(path.read_bytes()[: path.stat().st_size // 8 * 8], "<i8")
        # the process may have died over the write
        ids_N = numbers[1 : 1 + max(0, int(numbers[0]))] if len(numbers) else numbers
        found.setdefault(path.name.rpartition("-")[2], set()).update(ids_N.tolist())
    return {fingerprint: sorted(ids) for fingerprint, ids in found.items()}


def forget_under_way(folder: Path) -> None:
    """Remove the files of dead processes."""
    for path in folder.glob(f"{PREFIX}*"):
        path.unlink(missing_ok=True)
