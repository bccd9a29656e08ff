"""What a person runs first on a machine with a GPU: `turbomim bench gpu`.

Stages in processes of their own, the most valuable first, each with its share of the time; a row is in the
file as soon as it is measured, so the command may be cut off at any moment.  What cannot run here is a row
that says why.  Needs torch, Triton, numpy, timm, rich, safetensors, PyYAML and pytest; DALI for photographs.
Without a GPU every stage runs at small sizes: a rehearsal, whose figures mean nothing.
"""

# Only what needs no more than Python at the top: a machine that lacks a package hears of it stage by stage.

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from turbomim.benchmarks.gpu.stage import Row
from turbomim.benchmarks.stage_process import Parser, last_line, run_lines, say
from turbomim.pipeline.places.opening import check_local
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.settings.known_flags import check_flags, flags_of

# of the time, by stage, in their order; what one leaves goes to those after it
SHARES: Final = {
    "machine": 2.0,
    "tests": 8.0,
    "kernels": 3.0,
    "step base": 6.0,
    "step large": 4.0,
    "step huge": 4.0,
    "photographs": 5.0,
    "compiled against eager": 3.0,
    "profiles": 3.0,
    "compile modes": 4.0,
}


def bench_gpu_command(argv: list[str]) -> None:
    """`turbomim bench gpu …`: rows into a file, then tables.  Raises UserError."""
    options = _parse(argv)
    begun = time.monotonic()
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    device = _device()
    if device == "cpu":
        say("no GPU: every stage is rehearsed at small sizes; its figures mean nothing")
    place = {"device": device, "images": options.images, "work": str(out.parent / "made")}
    with out.open("a", encoding="utf-8") as file:

        def keep(row: Row) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        for number, stage in enumerate(options.stages):
            left = options.seconds - (time.monotonic() - begun)
            limit = left * SHARES[stage] / sum(SHARES[other] for other in options.stages[number:])
            say(f"[{number + 1}/{len(options.stages)}] {stage}: {limit:.0f} s at most")
            say(f"  {run(stage, place, limit, out.parent, keep)}")
    say(f"results in {out} after {time.monotonic() - begun:.0f} s")
    _tables(out)


def run(stage: str, place: dict[str, str], seconds: float, work: Path, keep: Callable[[Row], None]) -> str:
    """Run a stage for `seconds` at most, keep its rows, and one that says what ended it early; in words."""
    counts = {"rows": 0, "not": 0}

    def take(line: str) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            # cut short, or none of ours
            return
        keep(row)
        counts["not" if "why_not" in row else "rows"] += 1
        if "why_not" in row:
            say(f"  {row['name']}: {row['why_not']}")

    complaints = work / f"{stage.replace(' ', '-')}.err"
    command = [sys.executable, "-m", "turbomim.benchmarks.gpu.stage", stage, json.dumps(place)]
    begun = time.monotonic()
    code = run_lines(command, seconds, complaints, take)
    said = complaints.read_text(encoding="utf-8", errors="replace")
    why = f"stopped after {seconds:.0f} s, its share of --seconds" if code is None else ""
    if code:
        why = f"ended with exit code {code}: {last_line(said) or 'it said nothing'}"
    if why:
        keep({"stage": stage, "name": stage, "why_not": why, "traceback": said[-3000:] if code else ""})
        say(f"  {why}")
    return f"{counts['rows']} rows, {counts['not']} not measured, {time.monotonic() - begun:.0f} s"


def _tables(out: Path) -> None:
    """Print what `turbomim bench report` prints."""
    try:
        from turbomim.benchmarks.gpu.report import all_tables
        from turbomim.benchmarks.tables import read
    except ImportError as error:
        say(f"no tables: {error}")
        return
    print(all_tables(read(out)))


def _device() -> str:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{error}: every stage needs torch") from error
    return "cuda" if torch.cuda.is_available() else "cpu"


def parser() -> Parser:
    """The flags; of argparse, as a bare machine has no tyro."""
    parser = Parser(prog="turbomim bench gpu", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=420, help="for everything; 420 if not given")
    parser.add_argument(
        "--out",
        default="runs/bench-gpu/results.jsonl",
        help="file for the results, which is added to; what is made for them is kept beside it (%(default)s)",
    )
    parser.add_argument(
        "--images",
        default="",
        help="folder of JPEG photographs; those of packages, if there are any, if not given",
    )
    parser.add_argument("--stages", default=",".join(SHARES), help="which, with commas between: %(default)s")
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    check_flags(argv, flags_of(parser))
    options = parser().parse_args(argv)
    check_local("--out", options.out)
    check_local("--images", options.images)
    if not options.seconds >= 10:
        raise UsageError(f"--seconds {options.seconds:g}: at least 10")
    if options.images and not Path(options.images).is_dir():
        raise UserError(f"--images {options.images} is no folder: give one of JPEG photographs")
    options.stages = [stage.strip() for stage in options.stages.split(",")]
    if unknown := [stage for stage in options.stages if stage not in SHARES]:
        raise UsageError(f"--stages has {unknown[0]!r}: choose among {', '.join(SHARES)}")
    return options


if __name__ == "__main__":
    bench_gpu_command(sys.argv[1:])
