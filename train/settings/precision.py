"""In which precision a step computes."""

from typing import Literal

import torch

from turbomim.train.settings.config import StepConfig


def uses_bfloat16(step: StepConfig, device: torch.device) -> bool:
    """Whether matrix products are in bfloat16: where asked for or, with `auto`, on a GPU that has it.

    A run on a CPU has settled `auto` before (cpu_products.py): here it is float32.
    """
    if step.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return step.precision == "bfloat16"


def precision_name(*, bfloat16: bool) -> Literal["float32", "bfloat16"]:
    """The type of the matrix products in words."""
    return "bfloat16" if bfloat16 else "float32"
