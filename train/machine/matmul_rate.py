"""The rate of matrix products that model FLOPs utilisation is a share of: measured here, else a datasheet's.

Measured once by `turbomim doctor --measure`, and kept for this machine in matmul.json.
"""

import statistics
import time
from pathlib import Path

import torch

from turbomim.kernels.linear import linear
from turbomim.train.machine.measurements import MeasurementFile, machine_name
from turbomim.train.machine.versions import versions
from turbomim.train.settings.precision import precision_name
from turbomim.train.world.distributed import World

# large enough that a product is bound by arithmetic, small enough for a second or two
SIDE = {"cuda": 8192, "cpu": 2048}
# rounds, whose median counts, and products a round
ROUNDS, PRODUCTS = 7, {"cuda": 20, "cpu": 1}

# dense bfloat16 matrix products, FLOP/s, by the beginning of the device's name; NVIDIA's datasheets
BF16_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}

MEASURED_RATES = MeasurementFile(
    name="matmul.json", format="turbomim-matmul-1", made_by="`turbomim doctor --measure`"
)


def measured_rate(device: torch.device, *, bfloat16: bool) -> float | None:
    """FLOP/s kept for this machine's device in bfloat16 or float32, None if it was not measured.

    Raises UserError if the file is damaged.
    """
    entry = MEASURED_RATES.read(machine_name(device))
    if entry is None or entry.get("dtype") != precision_name(bfloat16=bfloat16):
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
            "dtype": precision_name(bfloat16=bfloat16),
            "flop_per_s": rate,
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
        },
    )


def peak_flops(device: torch.device, *, bfloat16: bool) -> float | None:
    """FLOP/s that a device's matrix products reach, measured here, else by its datasheet; None if unknown."""
    return measured_rate(device, bfloat16=bfloat16) or datasheet_flops(device, bfloat16=bfloat16)


def rank_peak(world: World, *, bfloat16: bool) -> float | None:
    """`peak_flops` of what one rank has to itself: a GPU, or its share of the CPU."""
    rate = peak_flops(world.device, bfloat16=bfloat16)
    return rate / world.local_size if rate and world.device.type == "cpu" else rate


def datasheet_flops(device: torch.device, *, bfloat16: bool) -> float | None:
    """Datasheet rate in FLOP/s of a GPU that computes in bfloat16, or None where it is not known."""
    if device.type != "cuda" or not bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for begin, rate in BF16_FLOPS.items() if name.startswith(begin)), None)


def about_peak(device: torch.device, *, bfloat16: bool) -> str:
    """What MFU is a share of, in words."""
    kind = precision_name(bfloat16=bfloat16)
    measured = measured_rate(device, bfloat16=bfloat16)
    if measured:
        return f"MFU is of {flops_text(measured)} of {kind} matrix products, measured on this machine"
    datasheet = datasheet_flops(device, bfloat16=bfloat16)
    measure = "`turbomim doctor --measure` measures what this machine reaches"
    if datasheet:
        return f"MFU is of the datasheet's {flops_text(datasheet)} of {kind} matrix products; {measure}"
    return f"no MFU: no rate of {kind} matrix products is kept here; {measure}, and keeps it"


def flops_text(rate: float) -> str:
    """A rate as people read it: 312 TFLOP/s, 95.2 GFLOP/s."""
    value, unit = (rate / 1e12, "TFLOP/s") if rate >= 1e12 else (rate / 1e9, "GFLOP/s")
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
