"""A thread that fills a cache of shards, beside whoever reads: in one process of a machine at a time.

A lock on a file says in which.  The system releases it however its owner ends, and another process goes on.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from turbomim.pipeline.places.download import WrongContentError, download, part_path
from turbomim.pipeline.system.closing import Closing
from turbomim.pipeline.system.durable import write_error
from turbomim.pipeline.system.errors import Stopped, UserError, to_stderr
from turbomim.pipeline.system.folder_lock import LOCK
from turbomim.pipeline.system.remedies import Changed, reason
from turbomim.pipeline.system.sha256 import sha256_of
from turbomim.pipeline.tars.manifest import REMEDY
from turbomim.pipeline.tars.shard_cache import Checked, ShardCache

# seconds between two looks at what is kept, and tries to be the one that fills
PAUSE = 10.0
# seconds between two lines of a cache that is being filled
PROGRESS = 60.0


class CacheFiller(Closing):
    """Fills a cache until the next shard does not fit, and keeps it in order; nothing waits for it.

    Shards come in the order of `cache.wanted`.  A file that was changed is hashed, and fetched again if it is
    wrong.  A disk that refuses ends the filling.  notify: takes one line an event.
    """

    def __init__(self, cache: ShardCache, *, notify: Callable[[str], None] = to_stderr) -> None:
        self._cache = cache
        self._notify = notify
        self._halt = threading.Event()
        self._handle: int | None = None
        self._place_fails = False
        self._thread = threading.Thread(target=self._run, name="turbomim-cache", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the filling; a later one goes on in the middle of a shard."""
        self._halt.set()
        self._thread.join()
        self._unlock()

    def _run(self) -> None:
        try:
            with suppress(Stopped):
                while not self._halt.is_set():
                    self._cache.look()
                    if next(self._missing(), None) is not None and self._lock():
                        self._fill()
                        self._unlock()
                    self._halt.wait(PAUSE)
        except UserError as error:
            # the lock stays taken: the other processes would meet the same disk
            self._notify(f"cache: {error}; no more is kept, and the rest comes from {self._cache.place}")

    def _fill(self) -> None:
        """Fetch what is missing and fits."""
        cache, before, told = self._cache, self._cache.stats.filled_bytes, time.monotonic()
        # another process may have fetched some since the last look
        cache.look()
        self._remove_parts()
        try:
            for shard in self._missing():
                if time.monotonic() - told >= PROGRESS:
                    self._notify(cache.in_words())
                    told = time.monotonic()
                if not self._recheck(shard):
                    self._fetch(shard)
                if self._halt.is_set():
                    raise Stopped
        except OSError as error:
            if not self._place_fails:
                self._notify(f"cache: nothing comes from {cache.place} for now: {reason(error)}")
            self._place_fails = True
            return
        self._place_fails = False
        if cache.stats.filled_bytes > before:
            self._notify(cache.in_words())

    def _missing(self) -> Iterator[int]:
        """Shards that are not kept, up to the first that does not fit."""
        cache = self._cache
        # nobody else fills the folder meanwhile
        free = cache.space - sum(cache.used().values())
        for shard in cache.missing():
            to_come = cache.to_come(shard)
            if to_come > max(0, free):
                return
            yield shard
            free += cache.to_come(shard) - to_come

    def _recheck(self, shard: int) -> bool:
        """Hash a file that is not known to be right; whether it is.  It is removed if not."""
        cache, path = self._cache, self._cache.file(shard)
        wanted, version = cache.manifest.shards[shard], cache.versions[shard]
        noted = cache.noted(shard)
        expected = wanted.sha256 or (noted.sha256 if noted and noted.version == version else "")
        problem = "is not as it was fetched"
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                fits = expected and status.st_size == wanted.bytes
                if fits and sha256_of(partial(os.pread, file.fileno()), self._go_on) == expected:
                    cache.note(shard, Checked.now(status, expected, version))
                    return True
        except FileNotFoundError:
            return False
        except OSError as error:
            problem = f"cannot be read ({reason(error)})"
        self._notify(f"cache: {path} {problem}: removed, to be fetched again")
        cache.forget(shard)
        return False

    def _fetch(self, shard: int) -> None:
        """Fetch a shard, or pass over it.  Raises OSError where its place does not answer."""
        cache, wanted = self._cache, self._cache.manifest.shards[shard]
        version = cache.versions[shard]
        try:
            sha256, status = download(
                cache.place,
                wanted.name,
                cache.file(shard),
                size=wanted.bytes,
                version=version,
                sha256=wanted.sha256,
                halt=self._halt,
                advance=self._count,
            )
        except (WrongContentError, Changed, FileNotFoundError) as error:
            cache.refuse(shard, f"{cache.place.at(wanted.name)}: {reason(error)}; {REMEDY}")
        else:
            cache.note(shard, Checked.now(status, sha256, version))

    def _count(self, size: int) -> None:
        self._cache.stats.filled_bytes += size

    def _go_on(self, _: int) -> None:
        if self._halt.is_set():
            raise Stopped

    def _remove_parts(self) -> None:
        """Remove what was begun of other shards than the one that is next."""
        following = next(self._missing(), None)
        kept = None if following is None else part_path(self._cache.file(following))
        for part in self._cache.own.glob(".*.part"):
            if part != kept:
                with suppress(OSError):
                    part.unlink()

    def _lock(self) -> bool:
        """Try to be the one that fills.  Raises UserError where there are no locks."""
        path = self._cache.folder / LOCK
        try:
            self._cache.own.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._unlock()
            return False
        except OSError as error:
            self._unlock()
            raise write_error(path, error) from error
        return True

    def _unlock(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
