"""A folder that passes for a store of objects: it counts what is read, and fails where it is told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.system.remedies import Changed


class CountedPlace(Place):
    """Reads are counted by name, in bytes; each takes `pause` seconds; versions: of its files, by name."""

    def __init__(self, folder: Path, *, pause: float = 0.0) -> None:
        self.under = Folder(folder)
        self.pause = pause
        self.bytes: Counter[str] = Counter()
        self.versions: dict[str, str] = {}
        self.fault: OSError | None = None
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return f"far://{self.under.folder.name}"

    def at(self, name: str) -> str:
        return f"{self}/{name}"

    def below(self, name: str) -> Self:
        return type(self)(self.under.folder / name)

    def status(self, name: str) -> Status:
        return Status(bytes=self.under.status(name).bytes, version=self.versions.get(name, ""))

    def files(self, below: str = "") -> dict[str, Status]:
        return {name: self.status(name) for name in self.under.files(below)}

    def read(self, name: str) -> bytes:
        return self.under.read(name)

    def read_into(
        self,
        name: str,
        buffer: memoryview,
        offset: int,
        *,
        version: str = "",
        halt: threading.Event | None = None,
    ) -> int:
        time.sleep(self.pause)
        if self.fault is not None:
            raise self.fault
        if version != self.versions.get(name, ""):
            raise Changed(f"{self.at(name)} was changed since it was opened")
        size = self.under.read_into(name, buffer, offset)
        with self._lock:
            self.bytes[name] += size
        return size

    def put(self, name: str, content: bytes | Path, *, if_absent: bool = False, version: str = "") -> str:
        raise NotImplementedError

    def copy(self, name: str, to: str) -> None:
        raise NotImplementedError

    def delete(self, name: str) -> None:
        raise NotImplementedError
