"""Stores of objects and processes: a fork says that it cannot read, and nothing here forks.

Planted: no check of the process, and the child hangs until its alarm.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import ROOT
from tests.stores.files import file_server

from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.executors import local_processes, run_jobs
from turbomim.pipeline.system.remedies import PlaceError


def in_a_fork(ask: Callable[[], object]) -> int:
    """How a forked process ends that asks: 7 if it is refused, minus the signal if it hangs."""
    child = os.fork()
    if child == 0:
        # pytest's handler would wait for what hangs
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(5)
        try:
            ask()
        except (PlaceError, UserError) as error:
            os._exit(7 if "forked" in str(error) else 8)
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_refused(own_trees: Path) -> None:
    with file_server(own_trees) as server:
        place = open_place(server.endpoint)
        place.read("manifest.json")
        assert in_a_fork(lambda: place.read("manifest.json")) == 7
        assert in_a_fork(lambda: open_place(server.endpoint)) == 7
        assert place.read("manifest.json")


def size_of(where: str) -> int:
    """What a worker reads."""
    return len(open_place(where).read("manifest.json"))


def test_workers_read_what_their_parent_has_opened(own_trees: Path) -> None:
    with file_server(own_trees) as server, local_processes(2) as workers:
        expected = size_of(server.endpoint)
        assert [*run_jobs(size_of, [server.endpoint], workers)] == [expected]


def test_nothing_forks() -> None:
    import torch._inductor.config

    sources = [path for stage in ("pipeline", "train") for path in (ROOT / stage).rglob("*.py")]
    pools = re.compile(r"(get_context|set_start_method|ProcessPoolExecutor|DataLoader|os\.fork)\(([^)]*)")
    calls = [found[0] for path in sources for found in pools.finditer(path.read_text(encoding="utf-8"))]
    # a DataLoader without workers, which a page of help shows, starts no process
    allowed = ("spawn", "mp_context=", "batch_size=None")
    assert calls and all(any(word in call for word in allowed) for call in calls), calls
    assert torch._inductor.config.worker_start_method == "subprocess"
