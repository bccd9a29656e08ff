"""A folder of this machine, or one that it has mounted, as a place."""

import os
import shutil
from pathlib import Path
from threading import Event
from typing import Self

from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.system.durable import whole_file
from turbomim.pipeline.system.remedies import Exists

# bytes copied at a time
COPY = 2**22


class Folder(Place):
    """A folder; `put` makes those below it."""

    folder: Path

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def at(self, name: str) -> str:
        """Give the path of a file."""
        return str(self.folder / name)

    def below(self, name: str) -> Self:
        """Give a folder in it."""
        return type(self)(self.folder / name)

    def status(self, name: str) -> Status:
        """Ask for the size of a file."""
        found = (self.folder / name).stat()
        return Status(bytes=found.st_size, changed_ns=found.st_mtime_ns)

    def files(self, below: str = "") -> dict[str, Status]:
        """List the files in it and in its folders, by name."""
        found: list[str] = []
        listed: dict[str, Status] = {}
        for folder, _, names in os.walk(self.folder / below, onerror=_raise):
            found += [(Path(folder) / name).relative_to(self.folder).as_posix() for name in names]
        for name in sorted(found):
            try:
                listed[name] = self.status(name)
            except FileNotFoundError:
                # a writer's temporary file goes meanwhile; a link to nothing stays
                if os.path.lexists(self.folder / name):
                    raise
        return listed

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        return (self.folder / name).read_bytes()

    def read_into(
        self, name: str, buffer: memoryview, offset: int, *, version: str = "", halt: Event | None = None
    ) -> int:
        """Fill `buffer` from a file, opened for this one read."""
        descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return fill(descriptor, buffer, offset)
        finally:
            os.close(descriptor)

    def put(self, name: str, content: bytes | Path, *, if_absent: bool = False, version: str = "") -> str:
        """Write a whole file durably.  A folder has no versions: one that is asked for is not there."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if version or (if_absent and path.exists()):
            raise Exists(f"{path} is there already")
        with whole_file(path, unique=True) as out:
            if isinstance(content, bytes):
                out.write(content)
            else:
                with open(content, "rb") as file:
                    shutil.copyfileobj(file, out, COPY)
        return ""

    def copy(self, name: str, to: str) -> None:
        """Copy a file within it."""
        self.put(to, self.folder / name)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there, and folders in the place that are empty then: a store has none."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        for parent in path.relative_to(self.folder).parents[:-1]:
            try:
                (self.folder / parent).rmdir()
            except OSError:
                return


def fill(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from an open file; return the bytes read, fewer only where the file ends."""
    # pread, not mmap: it copies, some 10 µs a photograph, but a shard that is cut under a running job is a
    # short read here and SIGBUS there
    done = 0
    # some file systems in user space give less at a time, and Linux never 2 GiB
    while done < len(buffer):
        size = os.preadv(descriptor, (buffer[done:],), offset + done)
        if size == 0:
            break
        done += size
    return done


def _raise(error: OSError) -> None:
    raise error
