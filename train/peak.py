"""Datasheet rates that model FLOPs utilisation is measured against."""

from __future__ import annotations

import torch

# dense bfloat16 matrix products, FLOP/s, without sparsity; NVIDIA's datasheets
BF16_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}


def peak_flops(device: torch.device) -> float | None:
    """Datasheet bf16 rate of the device in FLOP/s, or None where it is not known (every CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for key, rate in BF16_FLOPS.items() if key in name), None)
