"""What this process took of memory, and what this machine has.

Planted bug, and the test that it makes fail: freed blocks given back to the system:
`test_a_freed_block_is_used_again_without_faults`.
"""

from __future__ import annotations

import subprocess
import sys

import torch

from turbomim.train.machine.memory import GIB, device_bytes, peak_bytes


def test_this_process_and_this_machine() -> None:
    cpu = torch.device("cpu")
    assert peak_bytes(cpu) > 0.05 * GIB and 0.1 * GIB < device_bytes(cpu) < 2**50


# ten blocks of 64 MB, each touched and freed: with fresh pages that is 160,000 faults.  Ten more come before:
# aligned blocks do not fit the first gaps that others leave
REUSE = """
import resource
import torch
from turbomim.pipeline.reading.memory import keep_freed
keep_freed()
for _ in range(10):
    torch.empty(2**24).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.empty(2**24).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_freed_block_is_used_again_without_faults() -> None:
    result = subprocess.run([sys.executable, "-c", REUSE], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1000
