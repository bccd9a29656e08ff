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


def rows_of(ours: str, theirs: str, layers: dict[str, tuple[int, ...]]) -> list[Row]:
    """Layers with a weight of this shape and a bias of its first side, under two names."""
    return [
        (f"{ours}{layer}.{kind}", f"{theirs}{layer}.{kind}", shape if kind == "weight" else shape[:1])
        for layer, shape in layers.items()
        for kind in ("weight", "bias")
    ]


def simmim_block(d: int) -> dict[str, tuple[int, ...]]:
    """Layers of a SimMIM ViT's block, and of a Swin's, that have a weight and a bias."""
    return {
        "norm1": (d,),
        "attn.proj": (d, d),
        "norm2": (d,),
        "mlp.fc1": (4 * d, d),
        "mlp.fc2": (d, 4 * d),
    }


# microsoft/SimMIM's models/vision_transformer.py, under `encoder.` (simmim.py); one bias of positions for all
SIMMIM: list[Row] = [
    ("cls_token", "encoder.cls_token", (1, 1, WIDTH)),
    ("mask_token", "encoder.mask_token", (1, 1, WIDTH)),
    *rows_of("", "encoder.", {"patch_embed.proj": (WIDTH, 3, PATCH, PATCH), "norm": (WIDTH,)}),
    (
        "rel_pos_bias.relative_position_bias_table",
        "encoder.rel_pos_bias.relative_position_bias_table",
        ((2 * SIZE // PATCH - 1) ** 2 + 3, HEADS),
    ),
    *(
        row
        for n in range(DEPTH)
        for row in [
            *rows_of(f"blocks.{n}.", f"encoder.blocks.{n}.", simmim_block(WIDTH)),
            *(
                (f"blocks.{n}.{name}", f"encoder.blocks.{n}.{name}", shape)
                for name, shape in {
                    "attn.qkv.weight": (3 * WIDTH, WIDTH),
                    "attn.q_bias": (WIDTH,),
                    "attn.v_bias": (WIDTH,),
                    "gamma_1": (WIDTH,),
                    "gamma_2": (WIDTH,),
                }.items()
            ),
        ]
    ),
    *rows_of("", "", {"decoder.0": (3 * PATCH**2, WIDTH, 1, 1)}),
]
# the buffers beside them
SIMMIM_COMPUTED = ["encoder.rel_pos_bias.relative_position_index"]

# microsoft/SimMIM's models/swin_transformer.py: two stages of 2 and 1 blocks, 16 and 32 wide, windows of 4
SWIN_PATCH, SWIN_WIDTH, SWIN_STAGES, SWIN_WINDOW = 4, 16, (2, 1), 4
SWIN: list[Row] = [
    ("mask_token", "encoder.mask_token", (1, 1, SWIN_WIDTH)),
    *rows_of(
        "",
        "encoder.",
        {
            "patch_embed.proj": (SWIN_WIDTH, 3, SWIN_PATCH, SWIN_PATCH),
            "patch_embed.norm": (SWIN_WIDTH,),
            "norm": (2 * SWIN_WIDTH,),
        },
    ),
    *(
        row
        for stage, depth in enumerate(SWIN_STAGES)
        for n in range(depth)
        for width in (SWIN_WIDTH * 2**stage,)
        for place in (f"layers.{stage}.blocks.{n}.",)
        for row in [
            *rows_of(place, f"encoder.{place}", {**simmim_block(width), "attn.qkv": (3 * width, width)}),
            (
                f"{place}attn.relative_position_bias_table",
                f"encoder.{place}attn.relative_position_bias_table",
                ((2 * SWIN_WINDOW - 1) ** 2, 2 * 2**stage),
            ),
        ]
    ),
    # published stages end with the merging, timm's begin with it
    *rows_of("layers.1.downsample.", "encoder.layers.0.downsample.", {"norm": (4 * SWIN_WIDTH,)}),
    (
        "layers.1.downsample.reduction.weight",
        "encoder.layers.0.downsample.reduction.weight",
        (2 * SWIN_WIDTH, 4 * SWIN_WIDTH),
    ),
    *rows_of("", "", {"decoder.0": (3 * (2 * SWIN_PATCH) ** 2, 2 * SWIN_WIDTH, 1, 1)}),
]
SWIN_COMPUTED = [
    *(f"encoder.layers.{s}.blocks.{n}.attn.relative_position_index" for s, n in ((0, 0), (0, 1), (1, 0))),
    # of the shifted block
    "encoder.layers.0.blocks.1.attn_mask",
]

# Alpha-VL/ConvMAE's models_convmae.py and vision_transformer.py; no class token, four patches of 16 pixels
CONV_WIDTHS, CONV_TOKENS = (8, 12), (SIZE // 16) ** 2


def conv_block(c: int) -> dict[str, tuple[int, ...]]:
    """Layers of ConvMAE's CBlock."""
    return {
        "norm1": (c,),
        "conv1": (c, c, 1, 1),
        "conv2": (c, c, 1, 1),
        "attn": (c, 1, 5, 5),
        "norm2": (c,),
        "mlp.fc1": (4 * c, c, 1, 1),
        "mlp.fc2": (c, 4 * c, 1, 1),
    }


CONVMAE: list[Row] = [
    ("pos_embed", "pos_embed", (1, CONV_TOKENS, WIDTH)),
    ("mask_token", "mask_token", (1, 1, NARROW)),
    ("decoder_pos_embed", "decoder_pos_embed", (1, CONV_TOKENS, NARROW)),
    *rows_of(
        "",
        "",
        {
            "patch_embed1.proj": (CONV_WIDTHS[0], 3, 4, 4),
            "patch_embed1.norm": (CONV_WIDTHS[0],),
            "patch_embed2.proj": (CONV_WIDTHS[1], CONV_WIDTHS[0], 2, 2),
            "patch_embed2.norm": (CONV_WIDTHS[1],),
            "patch_embed3.proj": (WIDTH, CONV_WIDTHS[1], 2, 2),
            "patch_embed3.norm": (WIDTH,),
            "patch_embed4": (WIDTH, WIDTH),
            "stage1_output_decode": (WIDTH, CONV_WIDTHS[0], 4, 4),
            "stage2_output_decode": (WIDTH, CONV_WIDTHS[1], 2, 2),
            "norm": (WIDTH,),
            "decoder_embed": (NARROW, WIDTH),
            "decoder_norm": (NARROW,),
            "decoder_pred": (3 * 16**2, NARROW),
        },
    ),
    *rows_of("blocks1.0.", "blocks1.0.", conv_block(CONV_WIDTHS[0])),
    *rows_of("blocks2.0.", "blocks2.0.", conv_block(CONV_WIDTHS[1])),
    *(
        row
        for group, depth, width in (("blocks3", DEPTH, WIDTH), ("decoder_blocks", SHALLOW, NARROW))
        for n in range(depth)
        for row in rows_of(
            f"{group}.{n}.", f"{group}.{n}.", {**simmim_block(width), "attn.qkv": (3 * width, width)}
        )
    ),
]


def weights(rows: Iterable[Row], *, theirs: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of these shapes by our names, or by mmselfsup's; the same values for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {
        (other if theirs else ours): 0.1 * torch.randn(shape, generator=generator)
        for ours, other, shape in rows
    }
