"""The C++ compiler that torch.compile calls on a CPU, and the caches that it needs."""

from __future__ import annotations

import os
import shlex
import shutil

from turbomim.pipeline.system.errors import UserError
from turbomim.train.machine.compile_cache import check_compile_caches
from turbomim.train.settings.config import StepConfig


def find_compiler() -> str | None:
    """Path of the C++ compiler that torch.compile will call: $CXX where it is set, else g++.

    None if not there.
    """
    named = os.environ.get("CXX", "").strip()
    return shutil.which(shlex.split(named)[0] if named else "g++")


def check_compiler(step: StepConfig, device: str) -> None:
    """Raise UserError if the step is to be compiled and cannot be.  device: cpu or cuda."""
    if step.compile:
        check_compile_caches(device)
    if step.compile and device == "cpu" and find_compiler() is None:
        raise UserError(
            "no C++ compiler found: torch.compile needs one on a CPU; "
            "install g++, or go on more slowly with --step.compile false (demo: --compile false)"
        )
