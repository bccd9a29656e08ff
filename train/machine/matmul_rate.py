"""The rate of matrix products that a device reaches here: what model FLOPs utilisation is measured against.

Measured once by `turbomim doctor --measure`, and kept for this machine in matmul.json.
"""

import statistics
import time
from pathlib import Path

import torch

from turbomim.kernels.linear import linear
from turbomim.train.machine.measurements import MeasurementFile, machine_name
from turbomim.train.machine.versions import versions

# large enough that a product is bound by arithmetic, small enough for a second or two
SIDE = {"cuda": 8192, "cpu": 2048}
# rounds, whose median counts, and products a round
ROUNDS, PRODUCTS = 7, {"cuda": 20, "cpu": 1}

MEASURED_RATES = MeasurementFile(
    name="matmul.json", format="turbomim-matmul-1", made_by="`turbomim doctor --measure`"
)


def measured_rate(device: torch.device, *, bfloat16: bool) -> float | None:
    """FLOP/s kept for this machine's device in bfloat16 or float32, None if it was not measured.

    Raises UserError if the file is damaged.
    """
    entry = MEASURED_RATES.read(machine_name(device))
    if entry is None or entry.get("dtype") != _dtype_name(bfloat16):
        return None
    try:
        return float(entry["flop_per_s"])
    except (KeyError, TypeError, ValueError) as error:
        raise MEASURED_RATES.damaged(error) from error


def measure_rate(device: torch.device, *, bfloat16: bool, side: int | None = None) -> float:
    """FLOP/s of the step's linear layer on square matrices of random numbers: the median of some rounds."""
    side, products = side or SIDE[device.type], PRODUCTS[device.type]
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    # zeros draw less power and so run faster on a GPU
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    bias = torch.zeros(side, device=device, dtype=dtype)
    seconds = []
    # the first round starts threads and picks code
    for _ in range(ROUNDS + 1):
        _synchronise(device)
        begun = time.perf_counter()
        for _ in range(products):
            linear(a, b, bias)
        _synchronise(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 * products / statistics.median(seconds[1:])


def write_rate(device: torch.device, rate: float, *, bfloat16: bool) -> Path:
    """Keep a rate in FLOP/s for this machine's device; return the file.  Raises UserError if it cannot be."""
    return MEASURED_RATES.write(
        machine_name(device),
        {
            "dtype": _dtype_name(bfloat16),
            "flop_per_s": rate,
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
        },
    )


def _dtype_name(bfloat16: bool) -> str:
    return "bfloat16" if bfloat16 else "float32"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
