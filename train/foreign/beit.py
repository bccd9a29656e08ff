"""A fine-tuned ViT by the names of transformers' BeitForImageClassification.

It is the class of transformers whose head reads the normalised mean of the patch tokens; its ViT's head reads
the class token.  Its attention has no bias of keys, and needs none: it adds the same number to all that the
softmax of a query compares.  Source: modeling_beit.py of transformers 4.57 and 5.24, which takes the names of
version 4.
"""

import re
from typing import Final

from torch import Tensor

from turbomim.train.foreign.hf import INSIDE, split_qkv
from turbomim.train.foreign.names import Names, Pairs, Weights

# (ours, theirs)
_BEGIN: Final[Pairs] = (
    ("cls_token", "beit.embeddings.cls_token"),
    ("pos_embed", "beit.embeddings.position_embeddings"),
    ("patch_embed.proj.", "beit.embeddings.patch_embeddings.projection."),
    ("blocks.", "beit.encoder.layer."),
    ("fc_norm.", "beit.pooler.layernorm."),
    ("head.", "classifier."),
)
_INSIDE: Final[Pairs] = (
    *INSIDE,
    # SimMIM's
    (".gamma_1", ".lambda_1"),
    (".gamma_2", ".lambda_2"),
    (".attn.q_bias", ".attention.attention.query.bias"),
    (".attn.v_bias", ".attention.attention.value.bias"),
)
_NAMES: Final = Names(begin=_BEGIN, inside=_INSIDE)


def to_beit(weights: Weights) -> dict[str, Tensor]:
    """A classifier's tensors by BeitForImageClassification's names.

    weights: by the names of train/models/classifier.py, the encoder's without `encoder.`.
    """
    # each block's own, as fine-tuning has them
    tables = {
        re.sub(r"^rel_pos_bias\.(\d+)\.", r"blocks.\1.attention.attention.relative_position_bias.", name): t
        for name, t in weights.items()
    }
    split = split_qkv(tables)
    return _NAMES.to_theirs({name: t for name, t in split.items() if not name.endswith(".attn.key.bias")})
