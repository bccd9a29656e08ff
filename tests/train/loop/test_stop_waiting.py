"""A stop while steps wait for storage that is down: heard at once, saved, and the run goes on from there.

Planted, each seen to fail: a wait that asks nobody; requests that wait their turn and are still made after
the stop, of a server that is silent; requests on their way that are waited for; a stop that saves nothing.
"""

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.runs import (
    attempt,
    config_for,
    finish,
    killed_at_the_end,
    launch_ranks,
    outcome,
    ranked,
    records,
    run,
    status,
    wait_for,
)

from turbomim.benchmarks.stores.weed import Weed
from turbomim.pipeline.places import stores
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.reading import read_ahead, shard_files
from turbomim.pipeline.tars.split import Split
from turbomim.train.loop.step import Step
from turbomim.train.settings.config import Config

# seconds without a byte after which a request fails, in place of stores.SILENCE
SILENCE = 6.0


def slowly(keys: dict[str, str], config: Config, rank: int, world: int, port: int) -> None:
    """A rank whose steps take a twentieth of a second, and that reads few of them ahead, by one request."""
    os.environ.update(keys)
    stores.SILENCE = timedelta(seconds=SILENCE)
    read_ahead.GROUP, shard_files.REQUESTS = 1, 1  # type: ignore[misc]
    step = Step.__call__

    def slow(*args: object) -> object:
        time.sleep(0.05)
        return step(*args)  # type: ignore[arg-type]

    Step.__call__ = slow  # type: ignore[method-assign,assignment]
    if world > 1:
        ranked(config, rank, world, port)
    else:
        attempt(config)


@pytest.fixture
def own_store(store: Weed) -> Iterator[Weed]:
    """The store, which runs again after the test."""
    yield store
    os.killpg(store.pid, signal.SIGCONT)


@pytest.mark.parametrize(("outage", "world"), [("refuses", 1), ("is silent", 1), ("refuses", 2)])
def test_it_is_heard_saved_and_goes_on(
    outage: str, world: int, own_store: Weed, s3: str, tiny_split: Split, tmp_path: Path
) -> None:
    place = open_place(s3)
    for path in sorted(tiny_split.folder.iterdir()):
        place.put(path.name, path)
    config = config_for(Path(), tmp_path, data={"path": s3}, run={"save_every": 1000})
    folder, keys = tmp_path / "r", own_store.environment
    processes = launch_ranks(slowly, world, keys, config)
    with killed_at_the_end(processes):
        wait_for(lambda: len(records(folder)) > 3, processes[0])
        if outage == "refuses":
            own_store.kill()
        else:
            os.killpg(own_store.pid, signal.SIGSTOP)
        try:
            reached = None
            while reached != (reached := len(records(folder))):
                # longer than a step: none is left that was read ahead
                time.sleep(1)
            # a process that waits since then
            time.sleep(1)
            begun = time.monotonic()
            for process in processes:
                assert process.pid is not None
                os.kill(process.pid, signal.SIGTERM)
            while status(folder)["status"] != "preempted" and time.monotonic() < begun + 60:
                time.sleep(0.01)
            saved_s = time.monotonic() - begun
            assert [finish(process) for process in processes] == [0] * world
            ended_s = time.monotonic() - begun
        finally:
            if outage == "refuses":
                own_store.start_again()
            else:
                os.killpg(own_store.pid, signal.SIGCONT)
    # a request on its way ends with the server's silence, after all is saved; those that wait are not made
    assert saved_s < 5 and ended_s < 5 + (SILENCE if outage == "is silent" else 0)
    assert reached < 30 and f"stopped by SIGTERM at step {reached};" in (folder / "train.log").read_text()
    assert status(folder)["status"] == "preempted" and (folder / "ckpt" / f"step-{reached:08}").is_dir()
    resumed = launch_ranks(slowly, world, keys, config)
    assert [finish(process) for process in resumed] == [0] * world
    local = config_for(tiny_split.folder, tmp_path / "local", run={"save_every": 1000})
    run(local, world)
    assert outcome(folder) == outcome(tmp_path / "local" / "r")
