"""What CUDA itself says is known for the machine's error: no photograph is replaced for it.

Planted on the CPU, in tests/pipeline/decoding/test_failures.py, with the words of DALI and nvImageCodec.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from turbomim.pipeline.decoding.failures import no_image_to_blame, of_machine, out_of_memory
from turbomim.pipeline.system.errors import UserError

# an index that is not there ends a CUDA context: every call after it fails
BROKEN = """
import torch
from turbomim.pipeline.decoding.failures import of_machine, out_of_memory
values, place = torch.zeros(4, device="cuda"), torch.full((1,), 4, device="cuda")
for what in (lambda: values[place].cpu(), lambda: torch.zeros(1).pin_memory().cuda(), torch.cuda.synchronize):
    try:
        what()
    except RuntimeError as error:
        assert of_machine(error) and not out_of_memory(error), repr(error)
        print("known")
"""


def test_a_device_without_memory(device: torch.device) -> None:
    with (
        pytest.raises(
            UserError, match=r"cannot: .*no photograph is to blame.*memory ran out: take less"
        ) as told,
        no_image_to_blame("cannot", "take less"),
    ):
        torch.empty(2**50, dtype=torch.uint8, device=device)
    assert "\n" not in str(told.value)
    assert isinstance(told.value.__cause__, RuntimeError) and out_of_memory(told.value.__cause__)
    assert of_machine(told.value.__cause__)


def test_a_device_that_is_broken(device: torch.device) -> None:
    """In a process of its own."""
    if device.type == "cpu":
        pytest.skip("a CPU has no context to lose")
    answer = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=300)
    assert answer.stdout.split() == ["known"] * 3, answer.stdout + answer.stderr
