"""Time functions in turn, and say on what machine: JSON lines with value, unit, quantiles and versions."""

from __future__ import annotations

import functools
import hashlib
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from turbomim.pipeline.system.packages import installed
from turbomim.train.machine.checks import driver_version
from turbomim.train.machine.processor import cpu_model
from turbomim.train.machine.versions import versions

FOLDER: Final = Path(__file__).resolve().parent
# the folders of our own code
PARTS: Final = ("pipeline", "kernels", "train", "benchmarks")


def alternate(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each function, `rounds` times, one after the other in every round.

    Each runs once before, uncounted: compilation and first allocations are not measured.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            _wait()
            begun = time.perf_counter()
            function()
            _wait()
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@functools.cache
def machine() -> dict[str, Any]:
    """Device, driver, threads, versions and commit, for every line of results."""
    on_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "driver": (driver_version() or nvidia_smi("driver_version")) if on_gpu else None,
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        # its ViTMAE is measured too, by `bench step`
        "versions": versions() | installed(["transformers"]),
        "commit": commit() or f"source {source_digest()}",
    }


def nvidia_smi(field: str) -> str | None:
    """What nvidia-smi says of the first GPU, by a name of its --query-gpu; None where it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None if said.returncode == 0 else None


def commit() -> str:
    """The commit of this clone, with "-dirty" where files differ from it; empty for a copy without git."""
    command = ["git", "-C", str(FOLDER), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def source_digest() -> str:
    """Twelve hex digits of all our Python files: what tells which commit a copy without git is of."""
    digest = hashlib.sha256()
    for path in sorted(path for part in PARTS for path in (FOLDER.parent / part).rglob("*.py")):
        digest.update(str(path.relative_to(FOLDER.parent)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def emit(line: str, out: Path | None) -> None:
    """Print a line of results, and add it to a file if one is given."""
    print(line, flush=True)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def report(name: str, seconds: list[float], images: int, baseline: list[float], **facts: Any) -> str:
    """One JSON line: quantiles in µs per 1,000 images, and the ratio to the baseline, round by round."""
    scale = 1e6 * 1000 / images
    ratios = [b / s for b, s in zip(baseline, seconds, strict=True)]
    p20, p50, p80 = (statistics.quantiles(seconds, n=10, method="inclusive")[k] * scale for k in (1, 4, 7))
    line = {
        "name": name,
        "unit": "us per 1000 images",
        "p20": round(p20, 1),
        "p50": round(p50, 1),
        "p80": round(p80, 1),
        "times_faster": round(statistics.median(ratios), 2),
        "n": len(seconds),
        **facts,
        **machine(),
    }
    return json.dumps(line)
