"""What every encoder here shares: timm's blocks, fixed sin-cos positions."""

import functools

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from turbomim.kernels.linear import linear

LAYER_NORM = functools.partial(nn.LayerNorm, eps=1e-6)


def make_blocks(depth: int, width: int, heads: int) -> nn.ModuleList:
    """Pre-norm ViT blocks as MAE has them: mlp ratio 4, qkv bias, exact GELU, LayerNorm eps 1e-6.

    No drop-out.
    """
    return nn.ModuleList(
        # timm's annotation asks for a class; its code calls whatever it gets
        Block(width, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=LAYER_NORM)  # type: ignore[arg-type]
        for _ in range(depth)
    )


def block_flops(tokens: int, width: int) -> float:
    """Floating-point operations of one block's forward on one image, matrix products only."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


class Linear(nn.Linear):
    """A linear layer whose products are the fastest on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows (…, in) to rows (…, out)."""
        return linear(x, self.weight, self.bias)


def use_linear(module: nn.Module) -> None:
    """Let the linear layers inside be `Linear`, timm's too.  Weights and names stay."""
    for child in module.modules():
        if type(child) is nn.Linear:
            child.__class__ = Linear


def sincos_positions(width: int, grid: int) -> Tensor:
    """Fixed 2-D sin-cos position embedding with a zero row for the class token.

    Returns (1, 1 + grid*grid, width) float32, computed in float64.  Layout [sin x, cos x, sin y, cos y],
    width/4 each, x the column and y the row, frequencies 10000^(-k / (width/4)).  Source: the layout of the
    published MAE weights.
    """
    quarter = width // 4
    frequency_Q = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row_N, column_N = torch.meshgrid(*[torch.arange(grid, dtype=torch.float64)] * 2, indexing="ij")
    x_NQ = column_N.reshape(-1, 1) * frequency_Q
    y_NQ = row_N.reshape(-1, 1) * frequency_Q
    positions_ND = torch.cat([x_NQ.sin(), x_NQ.cos(), y_NQ.sin(), y_NQ.cos()], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), positions_ND]).float()[None]
