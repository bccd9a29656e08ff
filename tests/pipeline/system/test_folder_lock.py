"""A folder is one process's; what only looks does not keep it out."""

import fcntl
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.folder_lock import LOCK, folder_lock


def take(folder: Path) -> None:
    """Lock a folder, and let it go."""
    with folder_lock(folder, what=folder, other="choose another", without="--lock false"):
        pass


def test_a_look_at_the_lock_keeps_no_process_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted, and seen to fail: one try."""
    with open(tmp_path / LOCK, "w") as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        ends: list[Callable[[], None]] = [lambda: None, looker.close]
        monkeypatch.setattr(time, "sleep", lambda _: ends.pop(0)())
        with pytest.raises(UserError, match="is in use by another process"):
            take(tmp_path)
        take(tmp_path)
        assert not ends
