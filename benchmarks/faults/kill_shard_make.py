"""Does a killed `shard make` finish with the same bytes?

    python -m turbomim.benchmarks.faults.kill_shard_make

Each run is killed (SIGKILL) at a random moment and started again until it is through; then the sha256 of all
its files must be those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from turbomim.pipeline.making.journal import JOURNAL, read_journal
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.tars.manifest import MAKING

# of one run; its last attempt is left alone
MAX_KILLS = 20

# seconds
NEVER = 3600.0


@dataclass(kw_only=True)
class Tally:
    """What happened with one number of workers. resumed: shards that a later attempt found finished."""

    workers: int
    kills: int = 0
    runs: int = 0
    different: int = 0
    resumed: int = 0


def fork(action: Callable[[], object]) -> int:
    """Run `action` in a forked process and give its process number: it starts in a millisecond."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return pid


def ended_within(pid: int, seconds: float | None, begun: Callable[[], bool] = lambda: True) -> bool:
    """Wait for a process; kill it `seconds` after `begun`, None: never.  Returns whether it ended by itself.

    Raises RuntimeError if it failed.
    """
    deadline = None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if seconds is not None and deadline is None and begun():
            deadline = time.monotonic() + seconds
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.0005)
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"an attempt ended with exit code {os.WEXITSTATUS(status)}")
    return True


def digest(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def journal_bytes(folder: Path) -> int:
    """Size of a run's journal, 0 without one."""
    try:
        return (folder / MAKING / JOURNAL).stat().st_size
    except OSError:
        return 0


def kill_runs(source: Path, work: Path, workers: int, shard_size: int, kills: int, seed: int) -> Tally:
    """Kill runs of `workers` processes until `kills` kills have hit."""
    rng = random.Random(f"{seed} {workers}")

    def attempt(folder: Path) -> int:
        return fork(
            lambda: make_shards(source, folder, ShardSettings(shard_size=shard_size), workers=workers)
        )

    def watch(folder: Path, limit: float, *, packing: bool) -> bool:
        """Attempt; kill it at `limit` seconds after its start, or after the first shard it packs."""
        before = journal_bytes(folder)
        return ended_within(
            attempt(folder), limit, lambda: not packing or journal_bytes(folder) not in (0, before)
        )

    undisturbed = work / "undisturbed"
    forked = time.monotonic()
    watch(undisturbed, NEVER, packing=False)
    duration = time.monotonic() - forked
    expected = digest(undisturbed)
    tally = Tally(workers=workers)
    while tally.kills < kills:
        folder = work / f"run-{tally.runs}"
        begun_with = tally.kills
        while True:
            enough = tally.kills == kills or tally.kills - begun_with == MAX_KILLS
            # workers take most of a second to start: four kills in five hit the packing
            limit, packing = rng.uniform(0, duration), rng.random() < 0.8
            if watch(folder, NEVER if enough else limit, packing=packing):
                break
            tally.kills += 1
            tally.resumed += len(read_journal(folder / MAKING))
        tally.runs += 1
        tally.different += digest(folder) != expected
        for path in folder.iterdir():
            path.unlink()
    return tally


def draw_photographs(folder: Path, count: int) -> Path:
    """Write JPEGs of noise in three classes."""
    random_pixels = np.random.default_rng(0)
    for number in range(count):
        path = folder / "abc"[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_pixels.integers(0, 256, (128, 96, 3), dtype=np.uint8)).save(path)
    # one that is not fit, alone in its shard or not
    (folder / "a" / "broken.jpg").write_bytes(b"no image")
    return folder


def main() -> None:
    """Print one JSON line for each number of workers, and a sentence."""
    # imports torch, which every worker of every attempt would import too
    from turbomim.benchmarks.timing import machine

    # the trackers of killed runs would each report what they clean up
    os.environ["PYTHONWARNINGS"] = "ignore"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="folder of images; drawn if not given")
    parser.add_argument("--count", type=int, default=2000, help="images to draw")
    parser.add_argument("--shard-size", type=int, default=20)
    parser.add_argument("--kills", type=int, default=100, help="in all")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tallies = []
    for place, workers in enumerate(options.workers):
        share = (place + 1) * options.kills // len(options.workers) - place * options.kills // len(
            options.workers
        )
        with tempfile.TemporaryDirectory() as folder:
            source = options.images or draw_photographs(Path(folder, "photographs"), options.count)
            tally = kill_runs(source, Path(folder), workers, options.shard_size, share, options.seed)
        tallies.append(tally)
        print(json.dumps({"name": "kill_shard_make", **asdict(tally), **machine()}), flush=True)
    conclude(tallies, "the undisturbed one")


def conclude(tallies: Iterable[Tally], other: str) -> None:
    """Print how many runs differ from another one; end with 1 if any does."""
    kills, runs, different = map(sum, zip(*((t.kills, t.runs, t.different) for t in tallies), strict=True))
    print(f"{kills} kills over {runs} runs: {different} of {runs} runs differ from {other}")
    if different:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
