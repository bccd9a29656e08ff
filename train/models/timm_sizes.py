"""Sizes of an encoder by timm's name, where timm's model is exactly the encoder that is trained here."""

from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from turbomim.pipeline.system.errors import UsageError, unknown_name
from turbomim.train.models.vit import make_blocks

# the plain ones of usual sizes, for people who asked for another
PLAIN = (
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "vit_huge_patch14_224",
)


def encoder_sizes(name: str) -> dict[str, int]:
    """Patch, width, depth and heads of timm's plain ViT of this name; its weights are not wanted.

    Raises UsageError: timm has no ViT of this name, or a test of shapes tells it from ours.
    """
    known = timm.list_models(module="vision_transformer")
    if name not in known:
        if not name.startswith("vit"):
            raise UsageError(
                f"model.encoder: timm has no ViT {name!r}: use one like {', '.join(PLAIN)}; "
                "timm.list_models('vit_*') lists all"
            )
        raise unknown_name("model.encoder: timm has no ViT", name, known)
    # shapes without memory, so that a giant costs no more than a dwarf
    with torch.device("meta"):
        model: Any = timm.create_model(name, pretrained=False, num_classes=0)
        difference = _difference(model)
    if difference is not None:
        raise UsageError(
            f"model.encoder = {name}: not a plain ViT ({difference}), so it would not be trained as timm "
            f"builds it; use one like {', '.join(PLAIN)}, or set model.width, depth, heads and patch"
        )
    return {
        "patch": model.patch_embed.patch_size[0],
        "width": model.embed_dim,
        "depth": len(model.blocks),
        "heads": model.blocks[0].attn.num_heads,
    }


def _difference(model: Any) -> str | None:
    """What tells timm's encoder from ours, None if nothing does: tensors, activation, norm."""
    if not isinstance(model, VisionTransformer) or not isinstance(model.norm, nn.LayerNorm):
        return f"a {type(model).__name__} with {type(getattr(model, 'norm', None)).__name__} as its norm"
    block: Any = model.blocks[0]
    (ours,) = make_blocks(1, model.embed_dim, block.attn.num_heads)
    width, side = model.embed_dim, model.patch_embed.patch_size[0]
    expected = {
        **{
            f"blocks.{number}.{key}": tuple(value.shape)
            for key, value in ours.state_dict().items()
            for number in range(len(model.blocks))
        },
        "cls_token": (1, 1, width),
        "pos_embed": (1, model.patch_embed.num_patches + 1, width),
        "patch_embed.proj.weight": (width, 3, side, side),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key in sorted(found.keys() ^ expected.keys()):
        return f"it {'has' if key in found else 'lacks'} {key}"
    for key, shape in found.items():
        if shape != expected[key]:
            return f"{key} is {shape}, not {expected[key]}"
    for part in ("norm1", "mlp.act"):
        theirs = repr(block.get_submodule(part))
        if theirs != repr(ours.get_submodule(part)):
            return f"its {part} is {theirs}"
    return None
