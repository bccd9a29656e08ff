"""Drop path: in training a block's branch is left out for some samples, by their own random words.

timm's draws from the global generator, so that a sample's fate would depend on its batch and on the number of
ranks.  Source: stochastic depth, arXiv:1603.09382, with timm's rates and scale.

Shapes: B batch.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from turbomim.kernels.philox import PURPOSE_DROP_PATH, draw_u32_ref


class DropPath(nn.Module):
    """A branch's output times `scale_B`, or unchanged while that is None."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.scale_B: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        """Rows (B, …) to rows (B, …)."""
        if self.scale_B is None:
            return branch
        return branch * self.scale_B.to(branch.dtype).reshape(-1, *[1] * (branch.ndim - 1))


def add_drop_path(blocks: Iterable[nn.Module], rate: float) -> list[DropPath]:
    """Put a drop path behind both branches of every block but the first; `rate` is the last block's.

    The rate rises linearly from 0.  blocks: timm's, with drop_path1 and drop_path2.
    """
    _, *later = blocks
    paths: list[DropPath] = []
    for number, block in enumerate(later, start=1):
        if rate:
            both = [DropPath(rate * number / len(later)) for _ in range(2)]
            block.drop_path1, block.drop_path2 = both
            paths += both
    return paths


def draw_paths(paths: Sequence[DropPath], seed: int, epochs_B: Tensor, ids_B: Tensor) -> None:
    """Set every path's scale: 0 for a share `rate` of samples, 1 / (1 - rate) for the others.

    epochs, ids (B,) int64.
    """
    if not paths:
        return
    words_BP = draw_u32_ref(seed, epochs_B, ids_B, PURPOSE_DROP_PATH, len(paths))
    for path, word_B in zip(paths, words_BP.unbind(1), strict=True):
        path.scale_B = (word_B >= round(path.rate * 2**32)).to(torch.float32) / (1 - path.rate)


class Again:
    """A context in which a block's branches are left out as they were when this was made, then no more."""

    def __init__(self, block: object) -> None:
        modules = block.modules() if isinstance(block, nn.Module) else ()
        self.drawn = [(path, path.scale_B) for path in modules if isinstance(path, DropPath)]

    def __enter__(self) -> None:
        for path, scale_B in self.drawn:
            path.scale_B = scale_B

    def __exit__(self, *error: object) -> None:
        forget_paths([path for path, _ in self.drawn])


def forget_paths(paths: Sequence[DropPath]) -> None:
    """Leave no branch out any more."""
    for path in paths:
        path.scale_B = None
