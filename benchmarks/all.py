"""Everything in one go: `turbomim bench all`, or `python -m turbomim.benchmarks.all`.

Loader, kernels, step and training, each in a process of its own with its share of the time.  What cannot run
here costs one line; what was measured up to then is kept.  All results end up in one file of JSON lines.
"""

# Only what needs no more than Python at the top: a machine that lacks a package must hear of it part by part.

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from turbomim.benchmarks.stage_process import Parser, last_line, run_lines, say
from turbomim.pipeline.places.opening import check_local
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.settings.known_flags import check_flags, flags_of

# photographs that are cut out of the embedded ones
PHOTOGRAPHS: Final = 960
INSTALL: Final = "pip install 'turbomim[bench]'"
# what a part says of things it left out
LEFT_OUT: Final = re.compile(r"not (run|installed|timed)|failed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A benchmark: the words after `turbomim bench`, its share of the time, and where its rows are.

    rows: a file of JSON lines; None: its output.  missing: why it cannot run, as far as is known before.
    """

    name: str
    words: tuple[str, ...]
    share: float
    rows: Path | None = None
    missing: str = ""


@dataclass(kw_only=True, slots=True)
class Result:
    """What a part gave, and remarks on what it did not."""

    rows: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def bench_all_command(argv: list[str]) -> None:
    """`turbomim bench all …`: progress, then tables.  Raises UserError if nothing could be measured."""
    options = _parse(argv)
    begun = time.monotonic()
    out, work = Path(options.out), Path(options.out).parent
    work.mkdir(parents=True, exist_ok=True)
    out.write_text("", encoding="utf-8")
    on_gpu = _has_gpu()
    if not on_gpu:
        say("no GPU: everything is measured on the CPU, where only ratios within a run mean something")
    parts = plan(work, options.data, on_gpu)
    rows = 0
    for number, part in enumerate(parts):
        left = options.seconds - (time.monotonic() - begun)
        limit = left * part.share / sum(other.share for other in parts[number:])
        say(f"[{number + 1}/{len(parts)}] {part.name}: {limit:.0f} s at most")
        result = run(part, limit, work)
        for remark in result.remarks:
            say(f"{part.name}: {remark}")
        rows += len(result.rows)
        with out.open("a", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in result.rows)
    if not rows:
        raise UserError(
            f"nothing could be measured here, see the lines above: {INSTALL} brings all parts, and a slow "
            "machine needs more --seconds"
        )
    say(f"{rows} rows in {out} after {time.monotonic() - begun:.0f} s")
    tables = subprocess.run(
        [*TURBOMIM, "report", str(out)], capture_output=True, text=True, errors="replace", check=False
    )
    print(tables.stdout if tables.returncode == 0 else f"no tables: {_reason(tables.stderr)}")


TURBOMIM: Final = (sys.executable, "-m", "turbomim", "bench")


def plan(work: Path, data: str, on_gpu: bool) -> list[Part]:
    """The parts, for this machine."""
    device = "cuda" if on_gpu else "cpu"
    photographs, no_photographs = make_photographs(work)
    shards, no_shards = (data, "") if data else make_shards(photographs, work, no_photographs, on_gpu)
    loader = {
        "--images": str(photographs),
        "--work": str(work / "loader"),
        # the usual loader is always among them
        "--peers": "torchvision v2,DALI,turbomim",
        "--stores": "original",
        "--device": device,
        "--rounds": "2",
        "--seconds": "2",
        "--min-images": "500",
    }
    return [
        Part(
            name="loader",
            words=("loader", *(word for pair in loader.items() for word in pair)),
            share=2,
            rows=work / "loader" / "results.jsonl",
            missing=no_photographs,
        ),
        Part(name="kernels", words=("kernels", "--rounds", "15" if on_gpu else "3"), share=1),
        Part(name="step", words=("step", "--rounds", "3"), share=4),
        Part(name="train", words=("train", "--data", shards, "--rounds", "3"), share=2, missing=no_shards),
    ]


def make_photographs(work: Path) -> tuple[Path, str]:
    """The folder of photographs cut out of embedded ones, and why there are none."""
    folder = work / "photographs"
    try:
        from turbomim.train.demo.photos import cut_photos

        cut_photos(folder, images=PHOTOGRAPHS)
    except (ImportError, UserError) as error:
        return folder, f"no photographs: {error}"
    return folder / "train", ""


def make_shards(photographs: Path, work: Path, missing: str, on_gpu: bool) -> tuple[str, str]:
    """Shards of the photographs, and why there are none: original ones for a GPU, resized ones for a CPU."""
    store = "original" if on_gpu else "resized"
    folder = work / f"shards-{store}"
    if missing or (folder / "manifest.json").exists():
        return str(folder), missing
    command = [sys.executable, "-m", "turbomim", "shard", "make", str(photographs), str(folder)]
    done = subprocess.run(
        [*command, "--store", store], capture_output=True, text=True, errors="replace", check=False
    )
    return str(folder), f"no shards: {_reason(done.stderr)}" if done.returncode else ""


def run(part: Part, seconds: float, work: Path) -> Result:
    """Run a part for `seconds` at most, and gather what it measured, also if it failed."""
    if part.missing:
        return Result(remarks=[f"not run: {part.missing}"])
    if part.rows:
        part.rows.unlink(missing_ok=True)
    complaints, said = work / f"{part.name}.err", list[str]()
    code = run_lines([*TURBOMIM, *part.words], seconds, complaints, said.append)
    errors = complaints.read_text(encoding="utf-8", errors="replace")
    rows = _rows(_lines(part.rows) if part.rows else said)
    # the last line of a failure is its reason
    said_last = last_line(errors) if code else ""
    remarks = [line for line in errors.splitlines() if LEFT_OUT.search(line) and line != said_last]
    if code is None:
        remarks.append(f"stopped after {seconds:.0f} s, its share of --seconds; {len(rows)} rows are kept")
    elif code:
        remarks.append(f"{'broken off' if rows else 'not run'}: {_reason(errors)}")
    return Result(rows=rows, remarks=remarks)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _rows(lines: Sequence[str]) -> list[str]:
    """The lines that are rows of results; a last one that was cut short is none."""
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "unit" in row:
            found.append(line)
    return found


def _reason(complaints: str) -> str:
    """Why a process failed: its last line, and what brings a module that was missing."""
    line = last_line(complaints).removeprefix("turbomim: ")
    if line.startswith("ModuleNotFoundError: "):
        line = f"{line.removeprefix('ModuleNotFoundError: ')}: {INSTALL}"
    return line or "it said nothing"


def _has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def parser() -> Parser:
    """The flags; of argparse, as a bare machine has no tyro."""
    parser = Parser(prog="turbomim bench all", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--data", default="", help="split to train on; embedded photographs are used if not given"
    )
    parser.add_argument("--seconds", type=float, default=540, help="for everything; 540 if not given")
    parser.add_argument(
        "--out",
        default="runs/bench-all/results.jsonl",
        help="file for the results; what is made for them is kept beside it (%(default)s)",
    )
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    check_flags(argv, flags_of(parser))
    options = parser().parse_args(argv)
    check_local("--out", options.out)
    if not options.seconds >= 10:
        raise UsageError(f"--seconds {options.seconds:g}: at least 10")
    return options


if __name__ == "__main__":
    bench_all_command(sys.argv[1:])
