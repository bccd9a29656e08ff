"""transformers' names of a ViT and of an MAE, to ours and back.

It has a matrix each for queries, keys and values.  Source: modeling_vit.py and modeling_vit_mae.py of
transformers 4.57 and 5.24.  Version 5 has names of its own in memory; what it saves has those of version 4,
but for the decoder's blocks.
"""

from typing import Final

import torch
from torch import Tensor

from turbomim.train.foreign.names import Names, Pairs, Weights

# (ours, theirs)
_ENCODER: Final[Pairs] = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("blocks.", "encoder.layer."),
    ("norm.", "layernorm."),
)
_DECODER: Final[Pairs] = (
    ("decoder_blocks.", "decoder.decoder_layers."),
    ("decoder_", "decoder.decoder_"),
    ("mask_token", "decoder.mask_token"),
)
INSIDE: Final[Pairs] = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.output.dense."),
    (".attn.query.", ".attention.attention.query."),
    (".attn.key.", ".attention.attention.key."),
    (".attn.value.", ".attention.attention.value."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
# version 5's, which are read and not written: in memory, and of a saved decoder
_BEGIN_5: Final[Pairs] = (("blocks.", "layers."), ("decoder_blocks.", "decoder.decoder_encoder.layer."))
_INSIDE_5: Final[Pairs] = (
    (".attn.proj.", ".attention.o_proj."),
    (".attn.query.", ".attention.q_proj."),
    (".attn.key.", ".attention.k_proj."),
    (".attn.value.", ".attention.v_proj."),
)
# of an MAE the encoder's names begin with it
_VIT: Final = Names(begin=(("", "vit."),))
_ENCODER_ALONE: Final = Names(begin=_ENCODER, inside=INSIDE)
_ANY_VERSION: Final = Names(begin=(*_BEGIN_5, *_DECODER, *_ENCODER), inside=(*INSIDE, *_INSIDE_5))
_QKV: Final = ("query", "key", "value")


def to_vit(weights: Weights) -> dict[str, Tensor]:
    """An encoder's tensors by ViTModel's names."""
    return _ENCODER_ALONE.to_theirs(split_qkv(weights))


def to_vit_mae(weights: Weights) -> dict[str, Tensor]:
    """An MAE's tensors by ViTMAEForPreTraining's names.

    The class token has no position in the decoder here, and a zero there.
    """
    encoder = tuple((ours, f"vit.{theirs}") for ours, theirs in _ENCODER)
    theirs = Names(begin=(*_DECODER, *encoder), inside=INSIDE).to_theirs(split_qkv(weights))
    theirs["decoder.decoder_pos_embed"][:, 0] = 0
    return theirs


def from_hf(weights: Weights) -> dict[str, Tensor]:
    """Our names for those of ViTMAEForPreTraining, ViTMAEModel and ViTModel, of versions 4 and 5."""
    return _joined(_ANY_VERSION.to_ours(_VIT.to_ours(weights)))


def split_qkv(weights: Weights) -> dict[str, Tensor]:
    """The same with every qkv as three tensors."""
    split: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        stem, qkv, kind = name.partition(".attn.qkv.")
        if not qkv:
            split[name] = tensor
            continue
        for part, rows in zip(_QKV, tensor.chunk(3), strict=True):
            split[f"{stem}.attn.{part}.{kind}"] = rows.contiguous()
    return split


def _joined(weights: Weights) -> dict[str, Tensor]:
    """The inverse of `split_qkv`; what lacks one of the three stays as it is."""
    joined = dict(weights)
    for name, tensor in weights.items():
        stem, query, kind = name.partition(".attn.query.")
        names = [f"{stem}.attn.{part}.{kind}" for part in _QKV]
        if query and all(each in weights and weights[each].shape == tensor.shape for each in names):
            joined[f"{stem}.attn.qkv.{kind}"] = torch.cat([joined.pop(each) for each in names])
    return joined
