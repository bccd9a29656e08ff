"""Datasheet rates that model FLOPs utilisation is measured against."""

from __future__ import annotations

import torch

# dense bfloat16 matrix products, FLOP/s, by the beginning of the device's name; NVIDIA's datasheets
BF16_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def peak_flops(device: torch.device, *, bfloat16: bool) -> float | None:
    """Datasheet rate in FLOP/s of a GPU that computes in bfloat16, or None where it is not known."""
    if device.type != "cuda" or not bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for begin, rate in BF16_FLOPS.items() if name.startswith(begin)), None)
