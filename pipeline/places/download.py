"""A file of a place copied to a disk of this machine, in parts: whole and right, or not at all."""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.durable import sync, sync_folder, write_error
from turbomim.pipeline.system.errors import Stopped
from turbomim.pipeline.system.executors import wait_unless
from turbomim.pipeline.system.remedies import PlaceError

# bytes of a request
PART: Final = 8 * 2**20
PARTS_AT_ONCE: Final = 4


class WrongContentError(PlaceError):
    """What came is whole, and its sha256 is another."""


def part_path(path: Path) -> Path:
    """Where a file is written before it is whole."""
    return path.with_name(f".{path.name}.part")


def download(
    place: Place,
    name: str,
    path: Path,
    *,
    size: int,
    version: str = "",
    sha256: str = "",
    halt: threading.Event,
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[str, os.stat_result]:
    """Copy a file to `path`; return its sha256, and what the file system says of the copy.

    size: its bytes; version, sha256: what they must be, "" for any; halt: once it is set, raise Stopped;
    advance: hears the bytes of each part.  What is fetched stays beside `path` as a hidden file, and a later
    call goes on behind its last whole part; where there is no sha256 to compare with, it begins again.  The
    copy is on the disk before it gets its name.  Raises OSError where `place` fails, WrongContentError, and
    UserError where the disk refuses: then what was fetched is removed.
    """
    part = part_path(path)
    with _writing(part, size):
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with open(handle, "r+b", buffering=0) as out:
        digest = hashlib.sha256()
        with _writing(part, size):
            begun = os.fstat(handle).st_size // PART * PART if sha256 else 0
            out.truncate(begun)
            while chunk := out.read(PART):
                digest.update(chunk)
                _go_on(halt)
        for content in read_parts(place, name, range(begun, size), version, halt):
            digest.update(content)
            with _writing(part, size):
                _write(handle, content)
            advance(len(content))
        with _writing(part, size):
            sync(handle)
            status = os.fstat(handle)
    with _writing(part, size):
        if sha256 not in ("", digest.hexdigest()):
            part.unlink()
        else:
            os.replace(part, path)
            sync_folder(path.parent)
            return digest.hexdigest(), status
    if begun:
        # it may be the fault of what was left there
        return download(
            place, name, path, size=size, version=version, sha256=sha256, halt=halt, advance=advance
        )
    raise WrongContentError(f"its sha256 is {digest.hexdigest()[:12]}…, not {sha256[:12]}…")


def read_parts(
    place: Place, name: str, span: range, version: str, halt: threading.Event
) -> Iterator[memoryview]:
    """Give the bytes `span` of a file in parts, in order, four on their way; each is valid until the next.

    Raises OSError, also where the file ends before, and Stopped once `halt` is set.
    """
    offsets, size = span[::PART], span.stop
    buffers = [bytearray(min(PART, len(span))) for _ in range(min(len(offsets), PARTS_AT_ONCE + 1))]

    def get(number: int) -> memoryview:
        offset = offsets[number]
        buffer = memoryview(buffers[number % len(buffers)])[: size - offset]
        got = place.read_into(name, buffer, offset, version=version, halt=halt)
        if got != len(buffer):
            raise PlaceError(f"it ends after {offset + got:,} of {size:,} bytes")
        return buffer

    ahead: deque[Future[memoryview]] = deque()
    pool = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="turbomim-download")
    try:
        for number in range(len(offsets)):
            ahead.append(pool.submit(get, number))
            if len(ahead) > PARTS_AT_ONCE:
                yield _take(ahead.popleft(), halt)
        while ahead:
            yield _take(ahead.popleft(), halt)
    finally:
        # a request that nobody answers is not waited for
        pool.shutdown(wait=False, cancel_futures=True)


def _take(future: Future[memoryview], halt: threading.Event) -> memoryview:
    # a request that nobody answers is not waited for, and one that fails is then no matter
    wait_unless(halt.is_set, [future])
    _go_on(halt)
    return future.result()


def _go_on(halt: threading.Event) -> None:
    if halt.is_set():
        raise Stopped


def _write(handle: int, content: memoryview) -> None:
    while content:
        content = content[os.write(handle, content) :]


@contextmanager
def _writing(part: Path, size: int) -> Iterator[None]:
    """What the system refuses to write is a UserError, and leaves nothing on a disk that may be full."""
    try:
        yield
    except OSError as error:
        said = write_error(part, error, needed=size)
        with suppress(OSError):
            part.unlink()
        raise said from error
