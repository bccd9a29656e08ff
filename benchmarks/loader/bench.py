"""How fast is the loader, beside every other?  `turbomim bench loader --images FOLDER`.

Same photographs, same crops, same cores, bytes in the page cache; every measurement in a process of its own,
loader after loader in every round; before that, each loader's pictures are compared with the definition.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil

from turbomim.benchmarks.loader.entrants import Entrant, chosen, enter, names_on, say
from turbomim.benchmarks.loader.job import PEERS, REFERENCE, Job
from turbomim.benchmarks.loader.process import ask
from turbomim.benchmarks.loader.sets import Encoding, Sets, read_all
from turbomim.benchmarks.loader.table import Measurement, Row, plot, table
from turbomim.benchmarks.options import BenchLoader, BenchStore
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.decoding.dali_package import WHEELS
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.packages import installed
from turbomim.pipeline.tars.store import KINDS
from turbomim.train.settings.flags import parse

PACKAGES: Final = (
    "torch",
    "torchvision",
    "pillow",
    "webdataset",
    *WHEELS,
    "litdata",
    "mosaicml-streaming",
    "spdl-io",
    "ffcv",
)


def check_all(entrants: Sequence[Entrant], originals: Path) -> None:
    """Compare each loader's pictures with the definition; a wrong one gets a failure and is not timed."""
    for entrant in entrants:
        if entrant.row.failure:
            continue
        request = {"peer": entrant.module, "job": entrant.job.to_json(), "originals": str(originals)}
        try:
            entrant.row.deviation = ask(request, 0)["deviation"]
        except RuntimeError as error:
            entrant.row.failure = f"failed its check: {error}"
        say(f"{entrant.row.store}: {entrant.row.name}: {entrant.row.failure or 'right'}")


def measure_all(entrants: Sequence[Entrant], options: BenchLoader, lines: Path) -> None:
    """Round by round, loader by loader; every measurement is a JSON line."""
    # at least one prefetch depth of any of them: two processes a core, four batches each
    discard = 8 * options.cores + 2
    stretch = {"discard": discard, "seconds": options.seconds, "images": options.min_images}
    facts = facts_of_machine(options, PACKAGES)
    for number in range(options.rounds):
        for entrant in (entrant for entrant in entrants if not entrant.row.failure):
            request = {"peer": entrant.module, "job": entrant.job.to_json(), "stretch": stretch}
            try:
                answer = ask(request, 60 + 10 * options.seconds)
            except RuntimeError as error:
                entrant.row.failure = f"failed in round {number + 1}: {error}"
                say(f"{entrant.row.store}: {entrant.row.name}: {entrant.row.failure}")
                continue
            entrant.row.rounds[number] = Measurement(**answer)
            line = {"name": entrant.row.name, "store": entrant.row.store, "round": number, "unit": "img/s"}
            line |= answer | {"load": os.getloadavg()[0], **facts}
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            speed = f"{answer['images_per_s']:,.0f} img/s"
            say(f"round {number + 1}: {entrant.row.store}: {entrant.row.name}: {speed}")


def facts_of_machine(options: BenchLoader | BenchStore, packages: Sequence[str]) -> dict[str, Any]:
    """What the numbers depend on: machine, versions of packages, options."""
    # of a path its last part alone: where it was is nobody else's
    asked = {
        name: value.name if isinstance(value, Path) else str(value) for name, value in asdict(options).items()
    }
    return machine() | {"cores": options.cores, "packages": installed(packages), "options": asked}


@contextmanager
def pinned(count: int) -> Iterator[None]:
    """Keep this process, and those it starts, on its first `count` cores, as `taskset` does."""
    cores = os.sched_getaffinity(0)
    if not 1 <= count <= len(cores):
        raise UserError(f"--cores {count} is outside 1 to {len(cores)}, the cores of this process")
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def compare(options: BenchLoader) -> list[Row]:
    """Make the sets, check, measure, write results.jsonl and table.md.  Raises UserError."""
    stores = chosen("--stores", options.stores, KINDS)
    names = chosen("--peers", options.peers, names_on(options.device))
    sets = Sets(
        images=options.images,
        work=options.work,
        count=options.count,
        reencode=Encoding.parse(options.reencode) if options.reencode else None,
        size=options.size,
        resized=Encoding.parse(options.resized),
        cores=options.cores,
    )
    job = Job(
        folder=Path(),
        cores=options.cores,
        batch=options.batch,
        size=options.size,
        workers=options.workers,
        device=options.device,
    )
    entrants = enter(sets, job, stores, names)
    warm({entrant.job.folder for entrant in entrants if not entrant.row.failure})
    originals, _ = sets.get("original", PEERS[REFERENCE])
    check_all(entrants, originals)
    out = options.out or options.work
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.jsonl").unlink(missing_ok=True)
    measure_all(entrants, options, out / "results.jsonl")
    rows = [entrant.row for entrant in entrants]
    text = f"{table(rows, rows[0], options.cores)}\n\n{caption(options, originals)}\n"
    (out / "table.md").write_text(text, encoding="utf-8")
    return rows


def warm(folders: set[Path]) -> None:
    """Read every set once.  Raises UserError if they do not fit into the page cache together."""
    available = psutil.virtual_memory().available
    total = sum(read_all(folder) for folder in sorted(folders))
    say(f"{total / 1e9:.1f} GB of sets read once, {available / 1e9:.1f} GB of memory available")
    if total > 0.8 * available:
        raise UserError(
            f"the sets, {total / 1e9:.1f} GB, do not stay in {available / 1e9:.1f} GB of memory: "
            "take fewer photographs with --count"
        )


def caption(options: BenchLoader, originals: Path) -> str:
    """What the numbers of the table were measured on."""
    sizes = [path.stat().st_size for path in originals.iterdir()]
    encoding = f", encoded anew at {options.reencode}" if options.reencode else ""
    return (
        f"{len(sizes):,} photographs of {sum(sizes) / len(sizes) / 1000:,.0f} KB on average{encoding}; "
        f"resized store {options.resized}; crops of {options.size} pixels in batches of {options.batch}, on "
        f"{options.device}; {options.cores} cores; bytes in the page cache. Median and range of "
        f"{options.rounds} rounds, each measurement in a fresh process; the ratio is the median of the "
        "rounds' ratios. Memory: proportional set size of all processes. Deviation: mean of the first "
        "pictures from the definition in float, of 255."
    )


def bench_loader_command(argv: list[str]) -> None:
    """`turbomim bench loader …`.  Raises UserError."""
    options = parse(BenchLoader, argv, "turbomim bench loader")
    with pinned(options.cores):
        rows = compare(options)
    print((options.out or options.work).joinpath("table.md").read_text(encoding="utf-8"))
    print(json.dumps(facts_of_machine(options, PACKAGES)))
    if options.plot:
        plot(rows, options.plot, options.cores)


if __name__ == "__main__":
    bench_loader_command(sys.argv[1:])
