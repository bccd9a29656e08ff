"""The tests that need a GPU: what a file's came to, after every test, and a row for each that failed.

pytest wants the main thread and the standard output: it has a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

from turbomim.benchmarks.gpu.stage import Place, Row, rows_only
from turbomim.benchmarks.timing import FOLDER

ROOT: Final = FOLDER.parent
# the kernels' own where there is a GPU; elsewhere these run in Triton's interpreter, as `make test` does
FOLDERS: Final = {"cuda": ("tests/gpu", "tests/interpret"), "cpu": ("tests/gpu",)}
# processes, where pytest-xdist is there: most of the time is compilation, which takes no GPU
MOST_PROCESSES: Final = 8


class Results:
    """A plugin of pytest: hands rows to `emit`."""

    def __init__(self, emit: Callable[[Row], None]) -> None:
        self._emit = emit
        self._counts: dict[str, Counter[str]] = {}
        self._seconds: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test, and say what its file came to; pass on a failure at once."""
        file = report.nodeid.partition("::")[0]
        self._seconds[file] += report.duration
        if report.when == "call" or not report.passed:
            self._counts.setdefault(file, Counter())[report.outcome] += 1
        if report.failed:
            self._fail(report)
        if report.when == "teardown":
            # of rows of one name the last counts: this one may be the last
            numbers = {name: self._counts[file][name] for name in ("passed", "failed", "skipped")}
            self._emit({"name": file, **numbers, "seconds": round(self._seconds[file], 1)})
        self._count_skipped(report)

    def pytest_collectreport(self, report: Any) -> None:
        """Pass on a file that cannot be imported, and count one that is skipped whole."""
        if report.failed:
            self._fail(report)
        self._count_skipped(report)

    def pytest_sessionfinish(self) -> None:
        """Why tests were skipped."""
        for reason, number in self._reasons.items():
            # by its reason: of rows of one name the last alone counts
            self._emit({"name": f"{number} skipped: {reason}", "why_not": reason})

    def _count_skipped(self, report: Any) -> None:
        if report.skipped:
            self._reasons[str(report.longrepr[-1]).removeprefix("Skipped: ")] += 1

    def _fail(self, report: Any) -> None:
        text = str(report.longrepr)
        said = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
        why = said[0] if said else text.strip().splitlines()[-1]
        self._emit({"name": report.nodeid, "why_not": why, "traceback": text[-3000:]})


def rows(place: Place) -> Iterator[Row]:
    """The rows of pytest, as they come."""
    if not (ROOT / "tests" / "gpu").is_dir():
        yield {"name": "tests", "why_not": f"no tests beside {FOLDER}: run from a clone, with PYTHONPATH=src"}
        return
    command = [sys.executable, "-m", "turbomim.benchmarks.gpu.tests", place.device]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    # 1: some failed, and are named
    if process.returncode not in (0, 1):
        yield {"name": "tests", "why_not": f"pytest ended with exit code {process.returncode}"}


def main(device: str) -> int:
    """Run pytest, print its rows; its exit code."""
    import pytest

    argv = [f"--rootdir={ROOT}", f"--config-file={ROOT / 'setup.cfg'}", "-p", "no:cacheprovider"]
    argv += ["-m", "gpu", f"--device={device}", *(str(ROOT / folder) for folder in FOLDERS[device])]
    if device == "cuda" and importlib.util.find_spec("xdist"):
        argv += ["-n", str(MOST_PROCESSES), "--dist=worksteal"]
        # each would start a compiler a core
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")
    with rows_only() as emit:
        return int(pytest.main(argv, plugins=[Results(emit)]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
