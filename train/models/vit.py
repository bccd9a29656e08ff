"""What every encoder here shares: timm's blocks, fixed sin-cos positions."""

import functools

import torch
from timm.layers.attention import Attention as TimmAttention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from turbomim.kernels.attention import attention
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


class Attention(TimmAttention):
    """timm's attention, of which a block here has no more than the two linear layers."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens (B, T, D) to tokens (B, T, D), each of which sees all."""
        assert attn_mask is None and not is_causal
        q_BHTD, k_BHTD, v_BHTD = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(attention(q_BHTD, k_BHTD, v_BHTD).transpose(1, 2).flatten(2))
        return out


def use_kernels(module: nn.Module) -> None:
    """Let the linear layers and the attention inside be those of the kernels, timm's too.

    Weights and names stay.
    """
    ours = {nn.Linear: Linear, TimmAttention: Attention}
    for child in module.modules():
        child.__class__ = ours.get(type(child), type(child))


def sincos_positions(width: int, grid: int, of: int | None = None) -> Tensor:
    """Fixed 2-D sin-cos position embedding with a zero row for the class token.

    of: patches a side of the image that coordinates are measured in, `grid` if not given.  The patches of
    another grid have their centres' coordinates in it: (i + 1/2) * of / grid - 1/2, i the row or column.
    Returns (1, 1 + grid*grid, width) float32, computed in float64.  Layout [sin x, cos x, sin y, cos y],
    width/4 each, x the column and y the row, frequencies 10000^(-k / (width/4)).  Source: the layout of the
    published MAE weights.
    """
    quarter = width // 4
    frequency_Q = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    side_G = torch.arange(grid, dtype=torch.float64)
    if of is not None:
        side_G = (side_G + 0.5) * of / grid - 0.5
    row_N, column_N = torch.meshgrid(*[side_G] * 2, indexing="ij")
    x_NQ = column_N.reshape(-1, 1) * frequency_Q
    y_NQ = row_N.reshape(-1, 1) * frequency_Q
    positions_ND = torch.cat([x_NQ.sin(), x_NQ.cos(), y_NQ.sin(), y_NQ.cos()], dim=1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), positions_ND]).float()[None]
