"""Checkpoints written beside the steps."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint
from turbomim.train.folder.checkpoint import Snapshot


class Saver:
    """Writes snapshots in one thread, one at a time; a context manager that waits for the last.

    folder: of the checkpoints; keep: how many; background: whether `save` returns before it is on the disk.
    """

    def __init__(self, folder: Path, *, keep: int, background: bool) -> None:
        self._folder, self._keep, self._background = folder, keep, background
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # a run that fails still finishes the checkpoint under way
        self._thread.shutdown(wait=True)

    def save(self, snapshot: Snapshot) -> None:
        """Begin to write, after the one before is on the disk.  Raises UserError for what befell that one."""
        self.wait()
        self._writing = self._thread.submit(checkpoint.write, self._folder, snapshot, self._keep)
        if not self._background:
            self.wait()

    def error(self) -> UserError | None:
        """What befell a write that has ended, once; without waiting."""
        if self._writing is None or not self._writing.done():
            return None
        try:
            self.wait()
        except UserError as error:
            return error
        return None

    def wait(self) -> None:
        """Return when nothing is being written.  Raises UserError for what befell the last write."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
