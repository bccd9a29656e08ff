"""Tensors by another program's names and by ours: one table for both directions."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from turbomim.pipeline.system.errors import UserError

Weights = Mapping[str, Tensor]
# (ours, theirs)
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Where a program's names differ from ours.

    With begin = (("blocks.", "layers."), ("", "backbone.")) and inside = ((".norm1.", ".ln1."),) our
    blocks.0.norm1.bias is its layers.0.ln1.bias, and our cls_token its backbone.cls_token.
    """

    # what names begin with; of the pairs whose side a name begins with, the first counts
    begin: Pairs = ()
    # parts within a name, all of which are replaced
    inside: Pairs = ()

    def to_theirs(self, weights: Weights) -> dict[str, Tensor]:
        """Tensors of our names by theirs.  Raises UserError if two become the same."""
        return _renamed(weights, self.begin, self.inside)

    def to_ours(self, weights: Weights) -> dict[str, Tensor]:
        """Tensors of their names by ours.  Raises UserError if two become the same."""
        return _renamed(weights, _swapped(self.begin), _swapped(self.inside))


def _renamed(weights: Weights, begin: Pairs, inside: Pairs) -> dict[str, Tensor]:
    """The tensors by other names, each pair read from its first side to its second."""
    others: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        new = next((to + name.removeprefix(old) for old, to in begin if name.startswith(old)), name)
        for old, to in inside:
            new = new.replace(old, to)
        if new in others:
            raise UserError(f"two tensors are {new}: {name} is one of them")
        others[new] = tensor
    return others


def _swapped(pairs: Pairs) -> Pairs:
    return tuple((theirs, ours) for ours, theirs in pairs)
