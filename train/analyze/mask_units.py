"""Mask units over a square image, as the flags of an analysis give them."""

from __future__ import annotations

from turbomim.pipeline.system.errors import UsageError


def check_unit(flag: str, unit: int, size: int, of: str) -> None:
    """Raise UsageError if units of `unit` pixels do not tile a square of `size`, or one is all of it.

    of: what has that size, for the message.
    """
    if not (1 <= unit < size and size % unit == 0):
        raise UsageError(f"{flag} {unit}: must be a divisor of the {of}'s {size} pixels, and not all of it")


def kept_units(size: int, unit: int, ratio: float) -> int:
    """Units that stay visible: MAE's int(N * (1 - ratio))."""
    return int((size // unit) ** 2 * (1 - ratio))
