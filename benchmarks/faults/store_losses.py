"""Are the losses of 20 steps the same bits, wherever the shards lie and whatever fails meanwhile?

    python -m turbomim.benchmarks.faults.store_losses --out results.jsonl

The run of kill_pretrain.py (a ViT of width 64, float32, one thread) reads its shards from the disk; from
SeaweedFS; with all, and half of them, cached; through a proxy that injects faults; and while the client, or
the server, is killed (SIGKILL) and started again.  A JSON line each, with the seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from turbomim.benchmarks.faults import kill_pretrain
from turbomim.benchmarks.faults.store_soak import RATES
from turbomim.benchmarks.stores.fault_proxy import fault_proxy
from turbomim.benchmarks.stores.faults import seeded
from turbomim.benchmarks.stores.weed import BUCKET, Weed, weed_server
from turbomim.benchmarks.timing import emit, machine
from turbomim.pipeline.places import stores
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.executors import on_threads
from turbomim.pipeline.tars.split import open_split
from turbomim.train.folder.log import read_metrics
from turbomim.train.settings.config import Config

# of batches of 16, each sample once in 1.1 epochs
STEPS: Final = 20
IMAGES: Final = 290
# the step after which something is killed
KILL_AT: Final = 8
# seconds until a stalled request is given up: 20 of a user's
SILENCE: Final = timedelta(seconds=1)
# seconds that a run may take
PATIENCE: Final = 240.0

Losses = list[tuple[int, str]]


def attempt(config: Config, environment: dict[str, str]) -> None:
    """Train in this process; what is said goes nowhere."""
    os.environ.update(environment)
    stores.SILENCE = SILENCE
    kill_pretrain.attempt(config)


class Runs:
    """Runs of one split, at `where`, each in a folder of its own."""

    def __init__(self, work: Path, where: str, environment: dict[str, str]) -> None:
        self.work, self.where, self.environment = work, where, environment
        # no fork of this process, whose threads serve the proxy
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "nvidia.dali"])

    def config(self, name: str, where: str, **data: Any) -> Config:
        """The settings of a run."""
        config = kill_pretrain.settings(Path(), self.work / name)
        return dataclasses.replace(config, data=dataclasses.replace(config.data, path=where, **data))

    def start(self, config: Config, **environment: str) -> BaseProcess:
        """Begin, or go on with, a run."""
        process = self._context.Process(target=attempt, args=(config, self.environment | environment))
        process.start()
        return process

    def losses(self, config: Config, **environment: str) -> Losses:
        """Run to the end."""
        return self.finished(config, self.start(config, **environment))

    def finished(self, config: Config, process: BaseProcess) -> Losses:
        """Wait for a run; its losses as hexadecimal, by step.  Raises RuntimeError if it fails or hangs."""
        process.join(PATIENCE)
        code = process.exitcode
        process.kill()
        if code != 0:
            raise RuntimeError(f"the run {config.run.folder} ended with exit code {code}")
        return [(record["step"], float(record["loss"]).hex()) for record in self.records(config)]

    def records(self, config: Config) -> list[dict[str, Any]]:
        """Its log up to now."""
        path = Path(config.run.folder, config.run.name, "metrics.jsonl")
        return read_metrics(path) if path.exists() else []

    def reach(self, config: Config, process: BaseProcess, step: int) -> None:
        """Wait until a run has logged a step.  Raises RuntimeError if it ends or hangs before."""
        limit = time.monotonic() + PATIENCE
        while not any(record["step"] >= step for record in self.records(config)):
            if not process.is_alive() or time.monotonic() > limit:
                raise RuntimeError(f"the run {config.run.folder} did not come to step {step}")
            time.sleep(0.01)


def ways(runs: Runs, local: Path, server: Weed) -> Iterator[tuple[str, Callable[[], Losses], dict[str, Any]]]:
    """Each way to the same losses: its name, what runs it, and facts that it leaves."""
    where, facts = runs.where, dict[str, Any]()
    shards = open_split(local).manifest.shards

    def cached(share: float) -> Losses:
        """Run twice with one cache, which the first fills."""
        folder = runs.work / f"cache-{share:g}"
        own = {"cache": str(folder), "cache_gb": share * sum(shard.bytes for shard in shards) / 1e9 + 1e-5}
        runs.losses(runs.config(f"filling-{share:g}", where, **own))
        found = runs.losses(runs.config(f"cached-{share:g}", where, **own))
        facts["cached"] = f"{len([*folder.rglob('*.ok')])} of {len(shards)} shards"
        return found

    def faulty() -> Losses:
        with fault_proxy(server.endpoint, seeded(3, RATES)) as proxy:
            found = runs.losses(runs.config("faulty", where), AWS_ENDPOINT_URL=proxy.endpoint)
            facts["faults"] = proxy.injected.total()
        return found

    def client_killed() -> Losses:
        config = runs.config("client-killed", where)
        process = runs.start(config)
        runs.reach(config, process, KILL_AT)
        process.kill()
        process.join()
        return runs.losses(config)

    def server_killed() -> Losses:
        config = runs.config("server-killed", where)
        process = runs.start(config)
        runs.reach(config, process, 1)
        server.kill()
        time.sleep(0.5)
        server.start_again()
        return runs.finished(config, process)

    yield "disk", lambda: runs.losses(runs.config("disk", str(local))), facts
    yield "S3, cold", lambda: runs.losses(runs.config("cold", where)), facts
    yield "S3, cached", lambda: cached(1.0), facts
    yield "S3, half cached", lambda: cached(0.5), facts
    yield "S3, through faults", faulty, facts
    yield "S3, client killed", client_killed, facts
    yield "S3, server killed", server_killed, facts


def compare(work: Path, server: Weed, names: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Make a split, put it into the bucket, run each way (those of `names`), and yield a row each."""
    os.environ.update(server.environment)
    local = kill_pretrain.make_data(work, IMAGES)
    where = f"s3://{BUCKET}/losses"
    place = open_place(where)
    on_threads(lambda path: place.put(path.name, path), [*local.iterdir()])
    runs = Runs(work / "runs", where, server.environment)
    expected: Losses = []
    for name, run, facts in ways(runs, local, server):
        if names and name not in names:
            continue
        begun = time.monotonic()
        found = run()
        expected = expected or found
        seconds = round(time.monotonic() - begun, 1)
        yield {"way": name, "steps": len(found), "same": found == expected, "seconds": seconds, **facts}
        facts.clear()


def main() -> None:
    """Print a JSON line for each way; exit 1 if losses differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="file of JSON lines to add to")
    out = parser.parse_args().out
    same = True
    with tempfile.TemporaryDirectory() as work, weed_server(Path(work, "server")) as server:
        for row in compare(Path(work), server):
            emit(json.dumps({"name": "store_losses", **row, **machine()}), out)
            same = same and row["same"] and row["steps"] == STEPS
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
