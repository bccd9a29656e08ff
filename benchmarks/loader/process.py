"""A request to one loader, answered by a fresh process: nothing that a library leaves behind is shared."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Any, Final, cast

RUN: Final = "turbomim.benchmarks.loader.run"

# for imports, compilation and the first batches
START_S: Final = 180.0

ERROR: Final = re.compile(r"[\w.]*(Error|Exception)\b")


def ask(request: dict[str, Any], seconds: float, module: str = RUN) -> dict[str, Any]:
    """Answer of run.py, or of another module like it.  Raises RuntimeError: its error, or no answer in time.

    seconds: beyond START_S.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(request)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        said, complaints = process.communicate(timeout=START_S + seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer after {START_S + seconds:.0f} s") from None
    finally:
        # a loader's workers may outlive it
        kill_group(process.pid)
        process.wait()
    if process.returncode != 0:
        raise RuntimeError(reason(complaints) or f"exit code {process.returncode}")
    return cast(dict[str, Any], json.loads(said.splitlines()[-1]))


def reason(complaints: str) -> str:
    """The last line of a traceback that names an error, else the last line."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if ERROR.match(line)), lines[-1] if lines else "")


def kill_group(group: int) -> None:
    """Kill every process of a group that is left."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
