"""Seeds: the numbers that a run's random words are keyed by."""

from typing import Final

from turbomim.pipeline.system.errors import need

SEEDS: Final = 2**63


def check_seed(name: str, seed: int) -> None:
    """Raise UsageError for a seed that is none, by the name of its setting."""
    need(0 <= seed < SEEDS, name, seed, "0 to 2^63 - 1")
