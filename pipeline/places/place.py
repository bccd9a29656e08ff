"""Where the files of a split lie: a folder of this machine, or a store of objects, behind one interface.

Example: `open_place("s3://bucket/train")` has the files manifest.json and imagenet-train-000000.tar as a
folder would, and `read_into` gives bytes of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Self

from turbomim.pipeline.system.executors import on_threads


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What a place says of a file without reading it.

    bytes: its size; version: changes whenever its content does (an ETag), "" where the place has none;
    changed_ns: time of its last change, ns since 1970.
    """

    bytes: int
    version: str = ""
    changed_ns: int = 0


class Place(ABC):
    """Files by their names, "/" between folders.  Safe from many threads.

    Every method raises OSError: FileNotFoundError where there is no such file, Changed and Exists as said
    below, else what the system or the store refused, with words for people (pipeline/system/remedies.py).
    `str(place)` is what a user calls it: a path or a URL, never with a secret.
    """

    # the folder, where it is one of this machine
    folder: Path | None = None

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def at(self, name: str) -> str:
        """Give the path or URL of a file, for people."""

    @abstractmethod
    def below(self, name: str) -> Self:
        """Give the place that a folder in it is."""

    @abstractmethod
    def status(self, name: str) -> Status:
        """Ask for the size and the version of a file."""

    def statuses(self, names: Iterable[str]) -> list[Status | OSError]:
        """Ask for many files at once; what was raised stands in a file's place."""

        def ask(name: str) -> Status | OSError:
            try:
                return self.status(name)
            except OSError as error:
                return error

        return on_threads(ask, list(names))

    @abstractmethod
    def files(self, below: str = "") -> dict[str, Status]:
        """List the files in it, or in a folder of it, those of their folders too, sorted by name."""

    def files_here(self) -> dict[str, Status]:
        """List the files in it, without those of its folders, sorted by name."""
        return {name: status for name, status in self.files().items() if "/" not in name}

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Read a whole file."""

    @abstractmethod
    def read_into(
        self, name: str, buffer: memoryview, offset: int, *, version: str = "", halt: Event | None = None
    ) -> int:
        """Fill `buffer` from a file; return the bytes read, fewer only where the file ends.

        version: raise Changed if the file has another; halt: once it is set, what fails is not tried again.
        """

    @abstractmethod
    def put(self, name: str, content: bytes | Path, *, if_absent: bool = False, version: str = "") -> str:
        """Write a whole file, out of memory or of a file of this machine; return its version.

        A reader sees the old file or the new one, and never a part.  if_absent: raise Exists if there is such
        a file; version: raise Exists unless the file has this version.
        """

    @abstractmethod
    def copy(self, name: str, to: str) -> None:
        """Copy a file within the place."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
