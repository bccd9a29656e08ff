"""Does a killed `shard make` into a store of objects finish with the same bytes as one into a folder?

    python -m turbomim.benchmarks.faults.kill_store_make s3://BUCKET/FOLDER

The environment has the store's address and keys.  Each run is killed (SIGKILL) at a random moment and started
again until it is through; then the names and the sha256 of all objects must be those of a local run's files.
One image is broken, alone in its shard: the shards behind it get other names, by copies within the store.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from turbomim.benchmarks.faults.kill_shard_make import MAX_KILLS, Tally, conclude, digest, draw_photographs
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.making.store_destination import RESULTS
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.executors import on_threads

SETTINGS = ShardSettings(shard_size=1)


def attempt(source: Path, where: str, workers: int) -> None:
    """Make the shards, or go on with them."""
    make_shards(source, where, SETTINGS, workers=workers)


def digest_objects(where: str) -> dict[str, str]:
    """The sha256 of every object of a place, hidden ones included."""
    place = open_place(where)
    names = list(place.files())
    return dict(
        zip(names, on_threads(lambda name: hashlib.sha256(place.read(name)).hexdigest(), names), strict=True)
    )


def kill_runs(
    source: Path, where: str, expected: dict[str, str], workers: int, kills: int, seed: int
) -> Tally:
    """Kill runs of `workers` processes until `kills` kills have hit; where: a place without objects."""
    rng = random.Random(f"{seed} {workers}")
    # no fork of this process: a client of a store has threads, which a fork would not have
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def watch(place: str, limit: float | None) -> bool:
        """Attempt, and kill it after `limit` seconds; whether it ended by itself."""
        process = context.Process(target=attempt, args=(source, place, workers))
        process.start()
        process.join(limit)
        process.kill()
        process.join()
        if process.exitcode not in (0, -9):
            raise RuntimeError(f"an attempt ended with exit code {process.exitcode}")
        return process.exitcode == 0

    tally = Tally(workers=workers)
    watch(f"{where}/warm", None)
    begun = time.monotonic()
    watch(f"{where}/undisturbed", None)
    duration = time.monotonic() - begun
    while tally.kills < kills:
        place = f"{where}/run-{tally.runs}"
        begun_with = tally.kills
        while True:
            enough = tally.kills == kills or tally.kills - begun_with == MAX_KILLS
            if watch(place, None if enough else rng.uniform(0, duration)):
                break
            tally.kills += 1
            tally.resumed += len(open_place(place).files(RESULTS))
        tally.runs += 1
        tally.different += digest_objects(place) != expected
    return tally


def main() -> None:
    """Print one JSON line for each number of workers, and a sentence."""
    # the trackers of killed runs would each report what they clean up
    os.environ["PYTHONWARNINGS"] = "ignore"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("where", help="place of a store, without objects: s3://BUCKET/FOLDER")
    parser.add_argument("--count", type=int, default=40, help="images to draw, a shard each")
    parser.add_argument("--kills", type=int, default=30, help="in all")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shares = [options.kills // len(options.workers)] * len(options.workers)
    shares[-1] += options.kills - sum(shares)
    tallies = []
    with tempfile.TemporaryDirectory() as folder:
        source = draw_photographs(Path(folder, "photographs"), options.count)
        attempt(source, str(Path(folder, "local")), 1)
        expected = digest(Path(folder, "local"))
        for workers, share in zip(options.workers, shares, strict=True):
            tally = kill_runs(source, f"{options.where}/{workers}", expected, workers, share, options.seed)
            tallies.append(tally)
            print(json.dumps({"name": "kill_store_make", **asdict(tally)}), flush=True)
    conclude(tallies, "the local one")


if __name__ == "__main__":
    main()
