"""Is a sample lost, doubled or swapped where a store fails at every fifth request, and processes are killed?

    python -m turbomim.benchmarks.faults.store_soak --faults 10000 --kills 100 --out results.jsonl

A process reads epochs of a split in SeaweedFS, as a loader does, through a proxy that injects faults at a
fixed share of the requests.  It is killed (SIGKILL) and started again at its position; one kill in ten hits
the server instead, while the reader goes on.  Position, id, label and sha256 of every image are compared with
the same stream out of a local folder.

It goes in stages of ten kills, a JSON line each; the same command goes on after the last line of --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from turbomim.benchmarks.faults.kill_shard_make import draw_photographs
from turbomim.benchmarks.stores.fault_proxy import FaultProxy, fault_proxy
from turbomim.benchmarks.stores.faults import Fault, seeded
from turbomim.benchmarks.stores.weed import BUCKET, Weed, weed_server
from turbomim.benchmarks.timing import emit, machine
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.places import stores
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.reading.shard_files import Samples, ShardFiles, read_samples
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, Turn, turns
from turbomim.pipeline.system.executors import on_threads
from turbomim.pipeline.tars.split import Split, open_split

BATCH: Final = 64
STAGE_KILLS: Final = 10
# of a stage, the kill that hits the server
SERVER_KILL: Final = 5
# share of all requests that get each fault; a changed ETag is not among them: it ends a run
RATES: Final = {
    Fault.ERROR: 0.04, Fault.SLOW_DOWN: 0.04, Fault.RESET: 0.03, Fault.LOST: 0.02, Fault.RESET_BODY: 0.02,
    Fault.TRUNCATED: 0.02, Fault.SHORT: 0.02, Fault.LONG: 0.01, Fault.WRONG_LENGTH: 0.01,
    Fault.EXPIRED: 0.004, Fault.STALL: 0.001, Fault.STALL_BODY: 0.001,
}  # fmt: skip
# seconds until the reader gives up on a stalled request: 20 of a user's
SILENCE: Final = timedelta(seconds=1)
# seconds that an aim is off, at most
DELAY: Final = 1.0
# seconds without a fault until something hangs
PATIENCE: Final = 120.0

# id, label, sha256 of the image
Row = tuple[int, int, str]


@dataclass(kw_only=True)
class Tally:
    """What happened in a stage.  position: of the stream, from which the next one goes on."""

    stage: int
    position: int
    samples: int = 0
    # positions that were passed over, and that came again; samples with another id, label or bytes
    lost: int = 0
    doubled: int = 0
    swapped: int = 0
    requests: int = 0
    reader_kills: int = 0
    server_kills: int = 0
    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every sample came once, in its place."""
        return not (self.lost or self.doubled or self.swapped)


def stream_at(position: int) -> SampleStream:
    """The stream of all readers, from a position on."""
    return SampleStream(seed=7, cut=BatchCut(global_batch=BATCH, micro_batch=BATCH, start=position))


def turns_at(split: Split, position: int) -> Iterator[Turn]:
    """Its micro-batches."""
    return turns(stream_at(position), [shard.samples for shard in split.manifest.shards])


def rows_of(ids: list[int], samples: Samples) -> list[Row]:
    """What is compared of samples."""
    digests = [hashlib.sha256(image.data).hexdigest() for image in samples.images]
    return list(zip(ids, samples.labels_B.tolist(), digests, strict=True))


def truth_of(split: Split) -> list[Row]:
    """The rows of all samples, out of a local folder."""
    with ShardFiles(split) as files:
        return rows_of(list(range(len(split.index))), read_samples(split, files, np.arange(len(split.index))))


def read_on(environment: dict[str, str], where: str, position: int, log: Path) -> None:
    """Read from a position on until somebody kills this process; leave a line a micro-batch."""
    os.environ.update(environment)
    stores.SILENCE = SILENCE
    with log.with_suffix(".said").open("ab", buffering=0) as said:
        os.dup2(said.fileno(), sys.stderr.fileno())
    split = open_split(where)
    with (
        ReadAhead(split, turns_at(split, position), readers=2, prefetch=2) as ahead,
        log.open("ab", buffering=0) as lines,
    ):
        for turn, samples in ahead:
            lines.write(f"{json.dumps([turn.position, rows_of(turn.ids_B.tolist(), samples)])}\n".encode())


def compare(tally: Tally, lines: list[str], expected: Iterator[Turn], truth: list[Row]) -> None:
    """Compare what a reader left with what it should have, and move the position on."""
    for line, turn in zip(lines, islice(expected, len(lines)), strict=True):
        position, rows = json.loads(line)
        tally.lost += max(0, position - turn.position)
        tally.doubled += max(0, turn.position - position)
        ids = turn.ids_B.tolist()
        tally.swapped += abs(len(rows) - len(ids))
        tally.swapped += sum(tuple(row) != truth[sample] for row, sample in zip(rows, ids, strict=False))
        tally.samples += len(rows)
    tally.position += BATCH * len(lines)


class Reader:
    """A process that reads, and what it has left."""

    def __init__(self, environment: dict[str, str], where: str, position: int, folder: Path) -> None:
        self.log = folder / "lines"
        self.log.write_bytes(b"")
        # no fork of this process, whose threads serve the proxy
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._process = context.Process(target=read_on, args=(environment, where, position, self.log))
        self._process.start()

    def lines(self) -> list[str]:
        """Its whole lines; the last may have been cut by a kill."""
        return self.log.read_text().split("\n")[:-1]

    def check_alive(self) -> None:
        """Raise RuntimeError if it ended by itself: it never should."""
        if not self._process.is_alive():
            said = self.log.with_suffix(".said").read_text()
            raise RuntimeError(f"the reader ended with exit code {self._process.exitcode}: {said[-2000:]}")

    def kill(self) -> None:
        """Kill -9."""
        self._process.kill()
        self._process.join()


def run_stage(
    server: Weed, where: str, split: Split, truth: list[Row], tally: Tally, faults: int, folder: Path
) -> None:
    """Read while `faults` faults are injected, ten kills among them; count into the tally."""
    begun = time.monotonic()
    rng = random.Random(f"soak {tally.stage}")
    plan = seeded(tally.stage, RATES)
    with fault_proxy(server.endpoint, plan, stall_s=60) as proxy:
        reader = Reader(proxy.environment, where, tally.position, folder)
        try:
            for kill in range(STAGE_KILLS):
                wait_for_faults(proxy, reader, faults * (kill + 1) // STAGE_KILLS)
                time.sleep(rng.uniform(0, DELAY))
                reader.check_alive()
                if kill == SERVER_KILL:
                    server.kill()
                    time.sleep(rng.uniform(0, DELAY))
                    server.start_again()
                    tally.server_kills += 1
                    continue
                reader.kill()
                tally.reader_kills += 1
                compare(tally, reader.lines(), turns_at(split, tally.position), truth)
                if kill < STAGE_KILLS - 1:
                    reader = Reader(proxy.environment, where, tally.position, folder)
        finally:
            reader.kill()
        tally.requests = len(proxy.exchanges)
        tally.faults = {fault.value: count for fault, count in sorted(proxy.injected.items())}
    tally.seconds = round(time.monotonic() - begun, 1)


def wait_for_faults(proxy: FaultProxy, reader: Reader, goal: int) -> None:
    """Wait until a proxy has injected so many faults, and the reader read something.

    Raises RuntimeError if the reader ends, or nothing goes on.
    """
    found, since = -1, time.monotonic()
    while found < goal or not reader.lines():
        reader.check_alive()
        now = proxy.injected.total()
        if now != found:
            found, since = now, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise RuntimeError(f"no fault for {PATIENCE:.0f} s, {found} up to now: the reader hangs")
        time.sleep(0.1)


def soak(
    server: Weed, folder: Path, *, samples: int, faults: int, kills: int, done: list[Tally]
) -> Iterator[Tally]:
    """Make a split, put it into the server's bucket, and yield each stage that is not done."""
    stages = -(-kills // STAGE_KILLS)
    os.environ.update(server.environment)
    photographs = draw_photographs(folder / "photographs", samples)
    make_shards(photographs, folder / "split", ShardSettings(shard_size=-(-samples // 20)))
    where = f"s3://{BUCKET}/soak"
    place = open_place(where)
    on_threads(lambda path: place.put(path.name, path), [*(folder / "split").iterdir()])
    split = open_split(folder / "split")
    truth = truth_of(split)
    position = done[-1].position if done else 0
    for stage in range(len(done), stages):
        tally = Tally(stage=stage, position=position)
        run_stage(server, where, split, truth, tally, -(-faults // stages), folder)
        yield tally
        position = tally.position


def main() -> None:
    """Print a JSON line a stage, then the sum; exit 1 if a sample was lost, doubled or swapped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=10_000, help="to be injected, at least")
    parser.add_argument("--kills", type=int, default=100, help="of reader and server")
    parser.add_argument("--samples", type=int, default=3000, help="photographs to draw")
    parser.add_argument("--out", type=Path, help="file of JSON lines, to go on with")
    options = parser.parse_args()
    done: list[Tally] = []
    if options.out and options.out.exists():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
        names = Tally.__dataclass_fields__
        done = [
            Tally(**{k: v for k, v in row.items() if k in names})
            for row in rows
            if row["name"] == "store_soak"
        ]
    with tempfile.TemporaryDirectory() as work, weed_server(Path(work, "server")) as server:
        stages = soak(
            server,
            Path(work),
            samples=options.samples,
            faults=options.faults,
            kills=options.kills,
            done=[*done],
        )
        for tally in stages:
            done.append(tally)
            emit(json.dumps({"name": "store_soak", **vars(tally), **machine()}), options.out)
    print(json.dumps({"name": "store_soak, all stages", **total(done)}))
    if not all(tally.whole for tally in done):
        raise SystemExit(1)


def total(tallies: list[Tally]) -> dict[str, Any]:
    """The sums of all stages, and the epochs that were read."""
    faults: Counter[str] = Counter()
    for tally in tallies:
        faults.update(tally.faults)
    names = ("samples", "lost", "doubled", "swapped", "requests", "reader_kills", "server_kills", "seconds")
    sums = {name: round(sum(getattr(tally, name) for tally in tallies), 1) for name in names}
    return {**sums, "faults": faults.total(), "by_kind": dict(faults)}


if __name__ == "__main__":
    main()
