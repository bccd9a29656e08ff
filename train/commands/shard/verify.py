"""`turbomim shard verify PATH`: every byte of a split held against what it must be."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from turbomim.pipeline.checking.verify import VerifyReport, verify_split
from turbomim.pipeline.system.durable import json_bytes, write_durably
from turbomim.pipeline.system.words import counted, sized
from turbomim.train.machine.processor import cores
from turbomim.train.settings.flags import parse
from turbomim.train.settings.options import ShardsPath
from turbomim.train.terminal.progress import byte_bar

# problems on the terminal; a report holds all
SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class ShardVerify:
    """Check every byte of a split against manifest, tar headers and index; exit code 1 if it is not whole."""

    path: ShardsPath
    images: bool = False
    """Decode every image too."""
    workers: int = cores()
    """Tars at a time: on threads, with --images on processes.  Those of a store lie in TMPDIR meanwhile."""
    report: Path | None = None
    """JSON lines file for all problems; the terminal shows the first 20."""


def shard_verify_command(argv: list[str]) -> None:
    """`turbomim shard verify PATH`: exit code 1 if anything is wrong.  Raises UserError."""
    options = parse(ShardVerify, argv, "turbomim shard verify")
    begun = time.perf_counter()
    with byte_bar() as progress:
        report = verify_split(options.path, images=options.images, workers=options.workers, progress=progress)
    if options.report is not None:
        lines = b"".join(json_bytes(asdict(problem)) for problem in report.problems)
        write_durably(options.report, lines)
    sys.stdout.write(describe_verify(report, time.perf_counter() - begun) + "\n")
    if report.problems:
        raise SystemExit(1)


def describe_verify(report: VerifyReport, seconds: float) -> str:
    """The first problems, a line each, and one closing sentence with counts."""
    manifest, problems = report.manifest, report.problems
    lines = [str(problem) for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"… and {len(problems) - SHOWN:,} more: --report FILE.jsonl writes all")
    verdict = counted(len(problems), "problem") if problems else "whole"
    decoded = f", {counted(report.images, 'image')} decoded" if report.images else ""
    lines.append(
        f"{verdict}: {counted(len(manifest.shards), 'shard')}, {counted(manifest.samples, 'sample')}, "
        f"{sized(manifest.bytes)} checked{decoded} in {seconds:,.1f} s "
        f"({manifest.samples / seconds:,.0f} img/s)"
    )
    if report.unhashed:
        more = "every image was decoded" if report.images else "`--images` decodes every image"
        lines.append(
            f"nobody has hashed {counted(report.unhashed, 'shard')}, indexed in a store: sizes, headers, "
            f"labels and index files were checked, what images hold was compared with nothing; {more}"
        )
    return "\n".join(lines)
