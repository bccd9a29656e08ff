"""The arguments of a loader, checked before anything starts.  Every function raises UserError."""

from collections.abc import Sequence

import torch

from turbomim.pipeline.stream.philox import SEEDS
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split


def check_stream(split: Split, *, seed: int, start: int) -> None:
    """Refuse what has no stream of samples."""
    if split.manifest.samples < 1:
        raise UserError(f"the split {str(split.path)!r} has no samples: make it from a folder with images")
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed {seed} is outside [0, 2**63): choose a seed in that range")
    if start < 0:
        raise UserError(f"start position {start} is below 0: positions count samples from 0")


def check_device(device: str) -> None:
    """Refuse a device that is not "cpu" or "cuda", or not there."""
    if device not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} is neither 'cpu' nor 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda' was asked for, but torch finds no GPU: check the driver or use 'cpu'")


def check_counts(**counts: int) -> None:
    """Refuse counts below 1, by their names."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} {count} is below 1: set it to at least 1")


def check_shares(**shares: float) -> None:
    """Refuse shares outside [0, 1], by their names."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"{name} {share} is outside [0, 1]: it is a share")


def check_choice(name: str, choice: str, choices: Sequence[str]) -> None:
    """Refuse what is none of the choices."""
    if choice not in choices:
        raise UserError(f"{name} {choice!r} is none of {', '.join(choices)}: choose one of them")
