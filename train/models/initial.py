"""Initial weights: pure functions of the run's seed and the parameter's name, the same with every torch.

A weight's random word is Philox's, for its parameter's name, its row and its place in the row.  No generator
is drawn from, so a parameter's weights do not depend on what else the model has, on the device or on the
version of torch.  Values are computed in float64 and rounded once.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from turbomim.pipeline.stream.philox import WEIGHT, draw_u32

Numbers = NDArray[np.float64]
# numbers in (0, 1), one for each weight -> the weights, of the same shape
Draw = Callable[[Numbers], Numbers]
ZEROS: Final[Draw] = np.zeros_like

# weights drawn at once: what is computed on the way stays in a processor's caches
_CHUNK: Final = 2**15


def uniform(bound: float) -> Draw:
    """Uniform in (-bound, bound)."""
    return lambda share: (2 * bound) * share - bound


def normal(std: float, cut: float = math.inf) -> Draw:
    """Normal with mean 0 and deviation `std`, cut off at ± `cut`: no value lies beyond, as if drawn again."""
    # the share of a normal distribution that lies below -cut
    below = math.erfc(cut / std / math.sqrt(2)) / 2

    def draw(share: Numbers) -> Numbers:
        quantiles: Numbers = torch.special.ndtri(torch.from_numpy(below + (1 - 2 * below) * share)).numpy()
        return (std * quantiles).clip(-cut, cut)

    return draw


def initialise(model: nn.Module, draws: Mapping[str, Draw], seed: int) -> None:
    """Fill the parameters that `draws` names, float32 or narrower, on any device, one at a time.

    Raises KeyError if the model has no parameter of a name.
    """
    params = dict(model.named_parameters())
    for name, draw in draws.items():
        fill(params[name], draw, seed, name)


def fill(param: Tensor, draw: Draw, seed: int, name: str) -> None:
    """Fill one contiguous tensor in place with what (seed, name) and `draw` give, drawn on the host."""
    assert param.is_contiguous() and param.ndim
    if param.untyped_storage().device.type == "meta":
        # a tensor without storage, on whatever device it says it is
        return
    rows = param.detach().view(len(param), -1)
    parameter = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "little")
    step = max(1, _CHUNK // rows.shape[1])
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        row_R = np.arange(first, first + len(part))
        word_RC = draw_u32(seed, row_R, np.full_like(row_R, parameter), WEIGHT, rows.shape[1])
        part.copy_(torch.from_numpy(draw((word_RC + 0.5) / 2**32)))


def drawn_by_torch(module: nn.Module) -> list[str]:
    """Names of the parameters that torch draws from its generator where it makes a layer."""
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [f"{name}.{kind}" for name, layer in layers for kind, _ in layer.named_parameters(recurse=False)]


def xavier_uniform(weight: Tensor) -> Draw:
    """Uniform with Glorot's bound; a convolution's weight counts as a matrix, one row an output."""
    return uniform(math.sqrt(6 / (weight.shape[0] + weight[0].numel())))


def linear_draws(
    module: nn.Module, draw_of: Callable[[Tensor], Draw] = xavier_uniform, *, prefix: str = ""
) -> dict[str, Draw]:
    """Linear layers with zero bias, their weights drawn as `draw_of` says; LayerNorms stay 1 and 0.

    prefix: the module's own name in the model.
    """
    draws: dict[str, Draw] = {}
    for name, child in module.named_modules(prefix=prefix):
        if isinstance(child, nn.Linear):
            draws[f"{name}.weight"] = draw_of(child.weight)
            if child.bias is not None:
                draws[f"{name}.bias"] = ZEROS
    return draws


def convolution_draws(name: str, conv: nn.Module) -> dict[str, Draw]:
    """Weight and bias as torch draws those of a convolution by default."""
    assert isinstance(conv, nn.Conv2d)
    bound = 1 / math.sqrt(conv.weight[0].numel())
    return {f"{name}.weight": uniform(bound), f"{name}.bias": uniform(bound)}
