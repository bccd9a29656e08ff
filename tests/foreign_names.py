"""Names and shapes of other programs' checkpoints, written out by hand beside ours."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# of a small ViT: pixels a side, patch, encoder width and depth, decoder width and depth
SIZE, PATCH, WIDTH, DEPTH, NARROW, SHALLOW = 32, 8, 192, 3, 96, 2
TOKENS = 1 + (SIZE // PATCH) ** 2
# heads that go with these widths where no tensor tells: 64 and 32 values each
HEADS, DECODER_HEADS = 3, 3

Row = tuple[str, str, tuple[int, ...]]


def block(ours: str, theirs: str, d: int) -> list[Row]:
    """(our name, mmselfsup's, shape) of a block of width d."""
    return [
        (f"{ours}.norm1.weight", f"{theirs}.ln1.weight", (d,)),
        (f"{ours}.norm1.bias", f"{theirs}.ln1.bias", (d,)),
        (f"{ours}.attn.qkv.weight", f"{theirs}.attn.qkv.weight", (3 * d, d)),
        (f"{ours}.attn.qkv.bias", f"{theirs}.attn.qkv.bias", (3 * d,)),
        (f"{ours}.attn.proj.weight", f"{theirs}.attn.proj.weight", (d, d)),
        (f"{ours}.attn.proj.bias", f"{theirs}.attn.proj.bias", (d,)),
        (f"{ours}.norm2.weight", f"{theirs}.ln2.weight", (d,)),
        (f"{ours}.norm2.bias", f"{theirs}.ln2.bias", (d,)),
        (f"{ours}.mlp.fc1.weight", f"{theirs}.ffn.layers.0.0.weight", (4 * d, d)),
        (f"{ours}.mlp.fc1.bias", f"{theirs}.ffn.layers.0.0.bias", (4 * d,)),
        (f"{ours}.mlp.fc2.weight", f"{theirs}.ffn.layers.1.weight", (d, 4 * d)),
        (f"{ours}.mlp.fc2.bias", f"{theirs}.ffn.layers.1.bias", (d,)),
    ]


ENCODER: list[Row] = [
    ("cls_token", "backbone.cls_token", (1, 1, WIDTH)),
    ("pos_embed", "backbone.pos_embed", (1, TOKENS, WIDTH)),
    ("patch_embed.proj.weight", "backbone.patch_embed.projection.weight", (WIDTH, 3, PATCH, PATCH)),
    ("patch_embed.proj.bias", "backbone.patch_embed.projection.bias", (WIDTH,)),
    *(row for n in range(DEPTH) for row in block(f"blocks.{n}", f"backbone.layers.{n}", WIDTH)),
    ("norm.weight", "backbone.ln1.weight", (WIDTH,)),
    ("norm.bias", "backbone.ln1.bias", (WIDTH,)),
]
DECODER: list[Row] = [
    ("mask_token", "neck.mask_token", (1, 1, NARROW)),
    ("decoder_pos_embed", "neck.decoder_pos_embed", (1, TOKENS, NARROW)),
    ("decoder_embed.weight", "neck.decoder_embed.weight", (NARROW, WIDTH)),
    ("decoder_embed.bias", "neck.decoder_embed.bias", (NARROW,)),
    *(
        row
        for n in range(SHALLOW)
        for row in block(f"decoder_blocks.{n}", f"neck.decoder_blocks.{n}", NARROW)
    ),
    ("decoder_norm.weight", "neck.ln1.weight", (NARROW,)),
    ("decoder_norm.bias", "neck.ln1.bias", (NARROW,)),
    ("decoder_pred.weight", "neck.decoder_pred.weight", (3 * PATCH**2, NARROW)),
    ("decoder_pred.bias", "neck.decoder_pred.bias", (3 * PATCH**2,)),
]
# mmpretrain's: three levels, the last of them not projected
MFF: list[Row] = [
    *((f"proj_layers.{n}.weight", f"backbone.proj_layers.{n}.weight", (WIDTH, WIDTH)) for n in (0, 1)),
    *((f"proj_layers.{n}.bias", f"backbone.proj_layers.{n}.bias", (WIDTH,)) for n in (0, 1)),
    ("proj_weights", "backbone.proj_weights", (3, 1, 1, 1)),
]


def weights(rows: Iterable[Row], *, theirs: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of these shapes by our names, or by mmselfsup's; the same values for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {
        (other if theirs else ours): 0.1 * torch.randn(shape, generator=generator)
        for ours, other, shape in rows
    }
