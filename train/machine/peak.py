"""The rate that model FLOPs utilisation is a share of: measured on this machine, else the datasheet's."""

import torch

from turbomim.train.machine.matmul_rate import measured_rate
from turbomim.train.world.distributed import World

# dense bfloat16 matrix products, FLOP/s, by the beginning of the device's name; NVIDIA's datasheets
BF16_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


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
    kind = "bfloat16" if bfloat16 else "float32"
    measured = measured_rate(device, bfloat16=bfloat16)
    if measured:
        return f"MFU is of {flops_text(measured)} of {kind} matrix products, measured on this machine"
    datasheet = datasheet_flops(device, bfloat16=bfloat16)
    measure = "`turbomim doctor --measure` measures what this machine reaches"
    if datasheet:
        return f"MFU is of the datasheet's {flops_text(datasheet)} of {kind} matrix products; {measure}"
    return f"no MFU: the rate of {kind} matrix products here is not known; {measure}"


def flops_text(rate: float) -> str:
    """A rate as people read it: 312 TFLOP/s, 95.2 GFLOP/s."""
    value, unit = (rate / 1e12, "TFLOP/s") if rate >= 1e12 else (rate / 1e9, "GFLOP/s")
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
