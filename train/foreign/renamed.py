"""Tensors by other names: the pairs of beginnings and insides that one program's differ from another's by."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from turbomim.pipeline.system.errors import UserError

Weights = Mapping[str, Tensor]
Pairs = tuple[tuple[str, str], ...]


def renamed(weights: Weights, begin: Pairs, inside: Pairs) -> dict[str, Tensor]:
    """The tensors by other names: what a name begins with (the first pair that fits), then parts inside it.

    Raises UserError if two become the same.
    """
    others: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        new = next((to + name.removeprefix(old) for old, to in begin if name.startswith(old)), name)
        for old, to in inside:
            new = new.replace(old, to)
        if new in others:
            raise UserError(f"two tensors are {new}: {name} is one of them")
        others[new] = tensor
    return others


def swapped(pairs: Pairs) -> Pairs:
    """The pairs for the way back."""
    return tuple((new, old) for old, new in pairs)
