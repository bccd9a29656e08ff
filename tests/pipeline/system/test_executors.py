"""Executors: the same bytes from processes, threads and Dask workers, and one line without a cluster."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
from distributed import LocalCluster
from tests.pipeline.making.test_pack import contents

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system import executors
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.system.executors import local_processes, open_executor, run_jobs
from turbomim.pipeline.tars.manifest import MAKING
from turbomim.pipeline.tars.split import Split


@pytest.fixture(scope="module")
def dask_address() -> Iterator[str]:
    """Address of a Dask scheduler with two workers, each a process with one thread."""
    with LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def test_dask_workers_write_the_same_bytes(
    dask_address: str, photo_folder: Path, tmp_path: Path, tiny_split: Split
) -> None:
    with open_executor(f"dask:{dask_address}") as executor:
        make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_size=9), executor=executor)
        # pixels too, by other processes than this
        resized = ShardSettings(shard_size=9, store="resized", short_side=32)
        make_shards(photo_folder, tmp_path / "far", resized, executor=executor)
        assert executor is not None and executor.submit(os.getpid).result() != os.getpid()
    assert contents(tmp_path / "out") == contents(tiny_split.folder)
    make_shards(photo_folder, tmp_path / "near", resized)
    assert contents(tmp_path / "far") == contents(tmp_path / "near")


def test_a_run_begun_here_ends_on_dask(
    dask_address: str,
    photo_folder: Path,
    tmp_path: Path,
    tiny_split: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    # a worker elsewhere has another working folder
    monkeypatch.chdir(photo_folder.parent)
    folder = Path(os.path.relpath(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        make_shards(photo_folder.name, folder, ShardSettings(shard_size=9), progress=interrupt)
    with open_executor(f"dask:{dask_address}") as executor:
        report = make_shards(photo_folder.name, folder, ShardSettings(shard_size=9), executor=executor)
    assert report.kept == 1
    assert contents(tmp_path / "out") == contents(tiny_split.folder)


def test_a_user_error_of_a_dask_worker_is_one_line(
    dask_address: str, photo_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.jpg").write_bytes(b"no image")
    with (
        open_executor(f"dask:{dask_address}") as executor,
        pytest.raises(UserError, match=r"^'a.jpg': not a JPEG"),
    ):
        make_shards(tmp_path / "src", tmp_path / "out", ShardSettings(on_bad="fail"), executor=executor)


def test_threads_write_the_same_bytes(photo_folder: Path, tmp_path: Path, tiny_split: Split) -> None:
    with ThreadPoolExecutor(3) as executor:
        make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_size=9), executor=executor)
    assert contents(tmp_path / "out") == contents(tiny_split.folder)


def test_a_worker_that_writes_elsewhere(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(ThreadPoolExecutor):
        """Its workers see another disk under the same path."""

        def submit(self, function, job, /):  # type: ignore[no-untyped-def, override]
            def vanish():  # type: ignore[no-untyped-def]
                result = function(job)
                (tmp_path / "out" / MAKING / result.shard.name).unlink()
                return result

            return super().submit(vanish)

    with Elsewhere(1) as executor, pytest.raises(UserError, match="is not there: give workers the same disk"):
        make_shards(photo_folder, tmp_path / "out", executor=executor)


def test_no_more_jobs_are_handed_out_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "IN_FLIGHT", 3)
    gate, drawn = threading.Semaphore(0), []

    def jobs() -> Iterator[int]:
        for number in range(10):
            drawn.append(number)
            yield number

    def work(number: int) -> int:
        gate.acquire()
        return number * number

    with ThreadPoolExecutor(2) as executor:
        results = run_jobs(work, jobs(), executor)
        gate.release()
        next(results)
        handed_out = len(drawn)
        gate.release(10)
        assert len(list(results)) == 9
    assert handed_out == 4


def test_what_fails_cancels_what_has_not_begun() -> None:
    begun = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise UserError("stop")
        time.sleep(0.05)

    with ThreadPoolExecutor(1) as executor, pytest.raises(UserError, match="stop"):
        list(run_jobs(work, range(100), executor))
    assert len(begun) < 100


def test_an_executor_that_was_shut_down() -> None:
    class Gone(ThreadPoolExecutor):
        """Cancels all that it is given."""

        def submit(self, function, /, *args):  # type: ignore[no-untyped-def, override]
            future = super().submit(time.sleep, 0)
            future = type(future)()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with Gone(1) as executor, pytest.raises(UserError, match="the executor was shut down"):
        list(run_jobs(abs, [1], executor))


def test_a_job_that_stops_an_iteration_does_not_end_the_jobs() -> None:
    def job(number: int) -> int:
        return next(iter(())) if number == 1 else number

    with pytest.raises(RuntimeError):
        list(run_jobs(job, range(3), None))


def test_one_worker_is_this_process() -> None:
    with local_processes(1) as one, local_processes(2) as two:
        assert one is None and isinstance(two, Executor)
    with open_executor("local") as local:
        assert local is None


def test_who_is_not_patient_waits_for_no_job() -> None:
    with pytest.raises(KeyboardInterrupt), local_processes(2, patient=False) as pool:
        assert pool is not None
        pool.submit(abs, -1).result()
        job = pool.submit(time.sleep, 8.0)
        raise KeyboardInterrupt
    assert not job.done()


@pytest.mark.parametrize("place", ["", "slurm", "dask", "dask:"])
def test_an_unknown_executor_is_a_usage_error(place: str) -> None:
    with (
        pytest.raises(UsageError, match=f"--executor is '{place}': give local, or dask:ADDRESS"),
        open_executor(place),
    ):
        pass


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:9", "127.0.0.1:9", "nonsense://x:1", "tcp://no-such-host.invalid:8786"]
)
def test_an_address_where_nothing_answers(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the command below waits as long as it says
    monkeypatch.setattr(executors, "CONNECT_TIMEOUT", 1)
    begun = time.monotonic()
    words = f"^no Dask scheduler at '{re.escape(address)}': .*; start one with `dask scheduler`, .*$"
    with pytest.raises(UserError, match=words), open_executor(f"dask:{address}"):
        pass
    assert time.monotonic() - begun < 60


def test_dask_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UserError, match=r"not installed: pip install 'turbomim\[dask\]'$"),
        open_executor("dask:tcp://127.0.0.1:9"),
    ):
        pass


def test_the_command_with_an_address_where_nothing_answers_says_one_line(
    photo_folder: Path, tmp_path: Path
) -> None:
    words = [
        "shard",
        "make",
        str(photo_folder),
        str(tmp_path / "out"),
        "--executor",
        "dask:tcp://127.0.0.1:9",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "turbomim", *words], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert run.stderr.startswith("turbomim: no Dask scheduler") and run.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
