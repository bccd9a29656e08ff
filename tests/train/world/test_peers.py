"""What ranks wait for at a meeting, and what two threads of a rank write of it.

Planted, each seen to fail the test named: exchanges that do not wait for rank 0
(`test_rank_0_at_work_is_waited_for`); a silent rank 0 that is waited for too
(`test_a_rank_0_without_a_sign_of_life_is_named`); a sign that two threads change without a lock
(`test_two_threads_change_one_sign`); a watch that forgets what the main thread found
(`test_the_watch_keeps_what_was_found`); a watch that itself waits for the store
(`test_a_stopped_store_ends_a_rank_that_waits_for_ever`); a rank that waits for it before it has a watch
(`test_a_stopped_store_ends_a_rank_that_starts`); a main thread that itself writes the sign
(`test_the_main_thread_asks_the_store_for_nothing`).
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import pytest
import torch.distributed as dist
from tests.runs import as_rank, finish, free_port, killed_at_the_end, launch, launch_ranks, wait_for

from turbomim.pipeline.system.errors import UserError
from turbomim.train.world import peers
from turbomim.train.world.distributed import World, join_ranks
from turbomim.train.world.peers import Peers, Sign

# seconds that a rank waits for the others in these tests, and that rank 0 works
TIMEOUT, WORK = 3.0, 5.0


def on_rank0(world: World, work: Any) -> None:
    world.broadcast_from_rank0(work)


def on_all(world: World, work: Any) -> None:
    world.run_on_all(lambda: work() if world.main else None)


def before_wait(world: World, work: Any) -> None:
    if world.main:
        work()
    world.barrier()


def at_work(out: Path, fate: str, who: int, kinds: Sequence[Any], rank: int, world: int, port: int) -> None:
    """A rank of two; one of them works, and meets its fate, before it meets the other."""
    as_rank(rank, world, port)

    def work() -> None:
        (out / f"pid-{rank}").write_text(str(os.getpid()))
        if fate == "silent":
            setattr(Peers, "_write_sign", lambda self: None)  # noqa: B010
        if fate == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(WORK if fate == "works" else 600)

    try:
        with join_ranks("cpu", TIMEOUT) as ranks:
            # a rank that still joins would be ended by its watch
            ranks.barrier()
            for kind in kinds:
                if who == 0:
                    kind(ranks, work)
                else:
                    ranks.run_on_all(lambda: work() if rank == who else None)
            (out / f"done-{rank}").touch()
    except UserError as error:
        (out / f"said-{rank}").write_text(str(error))
        os._exit(1)


def test_rank_0_at_work_is_waited_for(tmp_path: Path) -> None:
    kinds = (on_rank0, on_all, before_wait)
    assert [finish(p) for p in launch_ranks(at_work, 2, tmp_path, "works", 0, kinds)] == [0, 0]
    assert [(tmp_path / f"done-{rank}").exists() for rank in (0, 1)] == [True, True]


@pytest.mark.parametrize(
    ("fate", "who", "words"),
    [
        ("silent", 0, "has given no sign of life"),
        ("stopped", 0, "has given no sign of life"),
        ("sleeps", 1, "is alive but did not come"),
    ],
)
def test_a_rank_0_without_a_sign_of_life_is_named(tmp_path: Path, fate: str, who: int, words: str) -> None:
    processes = launch_ranks(at_work, 2, tmp_path, fate, who, (on_rank0,))
    begun = time.monotonic()
    with killed_at_the_end(processes):
        assert finish(processes[1 - who]) == 1
    took_s = time.monotonic() - begun
    said = (tmp_path / f"said-{1 - who}").read_text()
    assert f"rank {who} " in said and words in said and "\n" not in said, said
    assert took_s < 60


def waiting_for_ever(out: Path, rank: int, world: int, port: int) -> None:
    """Rank 0, which keeps the store, is stopped; rank 1 is in a request of its own that has no end."""
    as_rank(rank, world, port)
    with join_ranks("cpu", TIMEOUT) as ranks:
        ranks.barrier()
        if rank == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        assert ranks.peers is not None
        ranks.peers.before_exit = functools.partial(say, out)
        time.sleep(600)


def say(out: Path, text: str) -> None:
    (out / "said").write_text(text)


def test_a_stopped_store_ends_a_rank_that_waits_for_ever(tmp_path: Path) -> None:
    processes = launch_ranks(waiting_for_ever, 2, tmp_path)
    with killed_at_the_end(processes):
        assert finish(processes[1]) == 1
    assert "rank 0 on " in (said := (tmp_path / "said").read_text()) and "no sign of life" in said, said


def keep_store(port: int) -> None:
    """As the launcher does; it is stopped before anybody comes."""
    kept = vars(dist)["TCPStore"]("127.0.0.1", port, 2, is_master=True, wait_for_workers=False)
    os.kill(os.getpid(), signal.SIGSTOP)
    del kept


def is_stopped(process: BaseProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].startswith("T")


def starting(out: Path, port: int) -> None:
    as_rank(1, 2, port)
    os.dup2(os.open(out / "said", os.O_WRONLY | os.O_CREAT), 2)
    with join_ranks("cpu", TIMEOUT):
        pass


def test_a_stopped_store_ends_a_rank_that_starts(tmp_path: Path) -> None:
    port = free_port()
    store = launch(keep_store, port)
    wait_for(lambda: is_stopped(store), store)
    rank = launch(starting, tmp_path, port)
    with killed_at_the_end([store, rank]):
        assert finish(rank) == 1
    assert "rank 1: the 2 ranks did not come together within 3 s: start" in (tmp_path / "said").read_text()


def peers_alone(monkeypatch: pytest.MonkeyPatch) -> Peers:
    """The only rank's peers, with no store behind them."""

    class Prefixed:
        def __init__(self, prefix: str, store: object) -> None:
            self.kept: dict[str, str] = {}

        def set(self, key: str, value: str) -> None:
            self.kept[key] = value

        def multi_get(self, keys: list[str]) -> list[str]:
            return [self.kept[key] for key in keys]

    class Store:
        def clone(self) -> Self:
            return self

        def set_timeout(self, timeout: object) -> None:
            pass

    monkeypatch.setattr(peers, "PrefixStore", Prefixed)
    monkeypatch.setattr(peers, "BEAT", 0.001)
    return Peers(Store(), 0, 1, 60.0)  # type: ignore[arg-type]


def test_the_main_thread_asks_the_store_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is stopped would hold it for ever, and it is the main thread that says who is lost."""
    alone, by = peers_alone(monkeypatch), list[threading.Thread]()
    write = alone._store.set

    def noted(key: str, value: str) -> None:
        by.append(threading.current_thread())
        write(key, value)

    monkeypatch.setattr(alone._store, "set", noted)
    with alone:
        pass
    assert by and threading.main_thread() not in by


def test_two_threads_change_one_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reading of a sign and its writing the other thread has time for a change of its own."""
    real = Sign._replace

    def slow(self: Sign, **changes: Any) -> Sign:
        time.sleep(0.003)
        return real(self, **changes)

    monkeypatch.setattr(Sign, "_replace", slow)
    with peers_alone(monkeypatch) as alone:
        entered, deadline = 0, time.monotonic() + 60
        while entered < 60 or alone._own_sign.beats < 10:
            assert time.monotonic() < deadline, "the watch does not come to its turn"
            alone.count_exchange()
            entered += 1
            # a lock goes to whoever asks first, which may be this thread every time
            time.sleep(0.001)
        assert alone._own_sign.entered == entered


def test_the_watch_keeps_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread finds who is missing while the watch looks, and sees nobody missing."""
    looking, found = threading.Event(), threading.Event()

    def look(self: Peers) -> dict[int, str]:
        looking.set()
        found.wait(20)
        return {}

    monkeypatch.setattr(Peers, "_read_signs", look)
    monkeypatch.setattr(Peers, "_find_lost", lambda self: {1: "rank 1 on b is alive but did not come"})

    def wait_out(self: Peers) -> bool:
        """Let the watch end its look first."""
        found.set()
        time.sleep(0.1)
        return True

    monkeypatch.setattr(Peers, "_speaks_for_all", wait_out)
    with (
        pytest.raises(UserError, match="rank 1 on b is alive"),
        peers_alone(monkeypatch) as alone,
        alone.naming_lost_ranks(),
    ):
        looking.wait(20)
        raise RuntimeError("gloo: timed out")
