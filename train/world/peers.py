"""Signs of life between ranks: a run that loses one ends within a stated time, and says which.

Every rank renews its sign in the launcher's key-value store once a second and reads those of the others.  A
rank that died or raised is named within seconds; one that is stopped, or that does not come to where the
others wait, after `step.rank_timeout`.  Rank 0 does work that the others wait for, and may take longer than
that as long as it is alive.  It needs no exchange among ranks, so it works while one hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from turbomim.pipeline.system.errors import UserError, to_stderr

# seconds between signs of life
BEAT = 1.0
# seconds without one after which a rank is held for lost, once an exchange has failed
SILENT = 5.0
# of one request; longer than any work
FOR_EVER = timedelta(days=20)
# seconds that a process has to end by itself
GRACE = 10.0
# what is lost where the store cannot be reached, or answers no more
NO_STORE = {0: "rank 0 is gone, or the launcher that kept the store of the ranks"}
# what an exchange says when the other side is gone or does not come
EXCHANGE = re.compile(r"gloo|nccl|tcpstore|connection|broken pipe|timed out", re.IGNORECASE)


class Sign(NamedTuple):
    """What a rank tells of itself."""

    host: str
    # counts up as long as the process lives
    beats: int
    # exchanges at step boundaries that it has come to
    entered: int
    # how it ended: None while it runs, empty if not by an error of its own
    left: str | None


def lost_ranks(signs: Sequence[Sign], silent_s: Sequence[float], limit: float) -> dict[int, str]:
    """Rank and fate of those that ended with an error, else of those silent for `limit` seconds or more."""
    named = [f"rank {rank} on {sign.host}" for rank, sign in enumerate(signs)]
    ended = {r: f"{named[r]} ended: {sign.left}" for r, sign in enumerate(signs) if sign.left}
    return ended or {
        r: f"{named[r]} has given no sign of life for {seconds:.0f} s: it was killed or stopped, or its "
        "machine is gone"
        for r, (sign, seconds) in enumerate(zip(signs, silent_s, strict=True))
        if sign.left is None and seconds >= limit
    }


def ranks_behind(signs: Sequence[Sign]) -> dict[int, str]:
    """Rank and fate of those that are alive but have not come as far as others."""
    furthest = max(sign.entered for sign in signs)
    return {
        r: f"rank {r} on {sign.host} is alive but did not come to where the others waited"
        for r, sign in enumerate(signs)
        if sign.left is None and sign.entered < furthest
    }


@contextlib.contextmanager
def exit_after(seconds: float, text: str) -> Iterator[None]:
    """Within it a call that has no end of its own ends the process after this time, with a line."""

    def end() -> None:
        to_stderr(text)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Peers:
    """This rank's sign of life, and its watch over the others', in threads.  A context manager.

    Who asks the store may wait for ever if the store's process is stopped, whatever the timeout: TCPStore
    takes back a request that is late, and waits for the answer to that.  So the main thread has others ask,
    and the thread that watches asks nobody.

    store: of the launcher; timeout_s: silence after which a rank is held for lost though nothing has failed.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout_s: float) -> None:
        # a connection of its own: the other one may be blocked in an exchange
        # torch 2.11 has no annotation of it
        any_store: Any = store
        own: Store = any_store.clone()
        own.set_timeout(timedelta(seconds=min(timeout_s, GRACE)))
        self._store = PrefixStore("turbomim", own)
        # and another to meet at, where a request takes as long as the slowest rank
        self._gate = PrefixStore("turbomim-gate", any_store.clone())
        self._meetings = 0
        self._rank, self._size, self._timeout_s = rank, size, timeout_s
        self._keys = [f"sign/{each}" for each in range(size)]
        # of the connection, which may be held as long as the store does not answer
        self._store_lock = threading.Lock()
        # of what the main thread and the watch both write: `_own_sign` and `_lost`
        self._state_lock = threading.Lock()
        self._own_sign = Sign(socket.gethostname(), 0, 0, None)
        self._signs = [self._own_sign] * size
        self._changed_at = [time.monotonic()] * size
        # since when the store has been asked for the signs, None while it is not
        self._asked_since: float | None = None
        self._lost: dict[int, str] = {}
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._exchange_signs, "signs"), (self._watch, "peers"))
        ]
        # called with the reason before the watch ends a process that hangs
        self.before_exit: Callable[[str], None] = lambda text: None

    def __enter__(self) -> Peers:
        self._publish_sign()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        own = kind is not None and not issubclass(kind, SystemExit) and not self._lost
        self._update_sign(left=" ".join(str(error or kind).split()) if own else "")
        self._publish_sign()
        if own:
            # the store may end with this process: let the others read first
            time.sleep(1.5 * BEAT)
        self._ended.set()
        for thread in self._threads:
            thread.join(BEAT)

    def count_exchange(self) -> None:
        """Note that this rank has come to one more exchange."""
        self._update_sign(entered=1)

    def wait_for_all(self) -> None:
        """Return when every rank has come here; for a rank 0 that is alive this waits however long it works.

        Raises DistError, for `naming_lost_ranks`: a rank is lost, or one other than 0 did not come in time.
        """
        self.count_exchange()
        self._publish_sign()
        self._meetings += 1
        come: Future[None] = Future()
        # the store may be that of a rank that is stopped: then it gives no answer and no error
        threading.Thread(
            target=self._wait_at_gate, args=(self._meetings, come), name="meet", daemon=True
        ).start()
        begun = said = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                return come.result(BEAT)
            now, behind = time.monotonic(), ranks_behind(self._signs)
            if self._lost:
                raise dist.DistError("a rank is lost")
            if behind and 0 not in behind and now - begun >= self._timeout_s:
                raise dist.DistError(f"timed out after {now - begun:.0f} s")
            if 0 in behind and self._rank == 1 and now - said >= self._timeout_s:
                said = now
                about = f"rank 0 is at work, the others have waited for it for {now - begun:.0f} s"
                to_stderr(about)

    def _wait_at_gate(self, number: int, come: Future[None]) -> None:
        """Wait at the store until every rank has come to the meeting of this number."""
        try:
            if self._gate.add(f"come/{number}", 1) == self._size:
                self._gate.set(f"open/{number}", "")
                # all ranks have passed the one before
                for name in ("come", "open"):
                    self._gate.delete_key(f"{name}/{number - 1}")
            self._gate.wait([f"open/{number}"], FOR_EVER)
        except BaseException as error:
            come.set_exception(error)
        else:
            come.set_result(None)

    @contextlib.contextmanager
    def naming_lost_ranks(self) -> Iterator[None]:
        """Turn a failed exchange into the name of the rank that it failed for.

        The first rank that is left raises UserError; the others, so that it is said once, SystemExit.
        """
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, dist.DistError) or EXCHANGE.search(str(error))):
                raise
            if not self._keep_lost(self._find_lost()):
                raise
            if self._speaks_for_all():
                raise UserError(self._lost_text()) from error
            # a launcher ends every rank when one is gone: let the other speak first
            time.sleep(BEAT)
            raise SystemExit(1) from error

    def _find_lost(self) -> dict[int, str]:
        """Who is missing after a failed exchange; takes a few seconds."""
        deadline = time.monotonic() + SILENT + 3 * BEAT
        while time.monotonic() < deadline:
            if found := self._lost or lost_ranks(self._signs, self._silent_seconds(), SILENT):
                return found
            time.sleep(BEAT / 10)
        return ranks_behind(self._signs)

    def _silent_seconds(self) -> list[float]:
        """Seconds since each rank's last sign.

        Rank 0, or its launcher, keeps the store: while that gives no answer nothing is known of the others.
        """
        now, asked = time.monotonic(), self._asked_since
        if asked is not None:
            return [(now if rank == 0 else asked) - then for rank, then in enumerate(self._changed_at)]
        return [0.0 if rank == self._rank else now - then for rank, then in enumerate(self._changed_at)]

    def _update_sign(self, *, beats: int = 0, entered: int = 0, left: str | None = None) -> None:
        """Change this rank's sign, from either thread: what is counted on, and how it ended."""
        with self._state_lock:
            mine = self._own_sign
            self._own_sign = mine._replace(
                beats=mine.beats + beats,
                entered=mine.entered + entered,
                left=mine.left if left is None else left,
            )

    def _keep_lost(self, found: dict[int, str]) -> dict[int, str]:
        """Keep who was found missing first, by either thread."""
        with self._state_lock:
            self._lost = self._lost or found
            return self._lost

    def _speaks_for_all(self) -> bool:
        here = (r for r, sign in enumerate(self._signs) if r not in self._lost and sign.left is None)
        return self._rank == min(here, default=self._rank)

    def _lost_text(self) -> str:
        return "; ".join(self._lost.values()) + ": the same command goes on from the last checkpoint"

    def _publish_sign(self) -> None:
        """Write this rank's sign; a store that gives no answer holds up the main thread for BEAT seconds."""
        writing = threading.Thread(target=self._write_sign, name="sign", daemon=True)
        writing.start()
        writing.join(BEAT)

    def _write_sign(self) -> None:
        # not for ever: another thread may wait for the answer of a store that hangs
        if self._store_lock.acquire(timeout=BEAT):
            try:
                with contextlib.suppress(RuntimeError):
                    self._store.set(self._keys[self._rank], json.dumps(self._own_sign))
            finally:
                self._store_lock.release()

    def _exchange_signs(self) -> None:
        """Renew this rank's sign and read those of the others, for as long as the store answers."""
        while not self._ended.wait(BEAT) and not self._lost:
            self._update_sign(beats=1)
            self._write_sign()
            self._keep_lost(self._read_signs())

    def _watch(self) -> None:
        """End the process once a rank is lost, if the main thread does not."""
        asked, beats = None, 0
        while not self._ended.wait(BEAT) and not self._lost:
            # by beats, not by the clock: a job that was stopped as a whole and goes on has lost nobody
            beats = beats + 1 if asked is not None and asked == self._asked_since else 0
            asked = self._asked_since
            if beats * BEAT >= self._timeout_s:
                self._keep_lost(lost_ranks(self._signs, self._silent_seconds(), self._timeout_s) or NO_STORE)
        if self._lost and not self._ended.wait(GRACE):
            # the main thread waits for something that will not come
            with contextlib.suppress(Exception):
                self.before_exit(self._lost_text())
            if self._speaks_for_all():
                to_stderr(self._lost_text())
            os._exit(1)

    def _read_signs(self) -> dict[int, str]:
        """Read every sign; return who is lost."""
        try:
            with self._store_lock:
                self._asked_since = time.monotonic()
                signs = [Sign(*json.loads(value)) for value in self._store.multi_get(self._keys)]
        except dist.DistStoreError:
            # no answer in time: rank 0, which may keep the store, is silent; of the others nothing is known
            self._changed_at[1:] = [time.monotonic()] * (len(self._keys) - 1)
            signs = self._signs
        except RuntimeError:
            return NO_STORE
        now, self._asked_since = time.monotonic(), None
        for rank, (before, sign) in enumerate(zip(self._signs, signs, strict=True)):
            if sign != before:
                self._changed_at[rank] = now
        self._signs = signs
        return lost_ranks(signs, self._silent_seconds(), self._timeout_s)
