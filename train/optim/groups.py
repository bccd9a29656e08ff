"""Which parameters decay, and which are the matrices that Muon steps: by name and shape."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from turbomim.train.models.simmim_swin import POSITIONS

# the layers after the last hidden one: decoder_pred of the masked models, head of a classifier
LAST = ("decoder_pred.", "head.")


# a group of parameters and its settings, with (name, parameter) under `params`
Named = dict[str, Any]


def chosen(groups: list[Named], take: Callable[[str, Tensor], bool]) -> list[Named]:
    """The groups with those of their parameters that are taken; none that is left empty."""
    found = [{**group, "params": [one for one in group["params"] if take(*one)]} for group in groups]
    return [group for group in found if group["params"]]


def plain(groups: list[Named]) -> list[dict[str, Any]]:
    """The groups as torch's optimizers have them, without names."""
    return [{**group, "params": [param for _, param in group["params"]]} for group in groups]


def decayed(name: str, param: Tensor, decay_tokens: bool, by_mistake: tuple[str, ...] = ()) -> bool:
    """Whether weight decay applies: not to vectors, biases and POSITIONS.

    It applies to cls_token and mask_token if `decay_tokens`, as in MAE.  by_mistake: parts of names that
    published code decays though it means to spare them.

    Source: timm's rule (no decay iff 1-D or name ends in .bias), 167 and 85 tensors of ViT-B; POSITIONS are
    the names that Swin's code spares, or in SimMIM means to.
    """
    if param.ndim <= 1 or name.endswith(".bias"):
        return False
    if any(part in name for part in by_mistake):
        return True
    if any(part in name for part in POSITIONS):
        return False
    return decay_tokens or not name.endswith(("cls_token", "mask_token"))


def is_hidden_matrix(name: str, param: Tensor) -> bool:
    """Whether Muon steps it: the weight of a linear layer between the first layer and the last.

    The others are AdamW's: patch embedding and other convolutions, tokens, positions, norms, biases, and the
    layer that predicts.  Source: K. Jordan's rule (kellerjordan.github.io/posts/muon), as torch.optim.Muon
    has it: matrices of hidden layers, but no embedding and no last layer.
    """
    inside = not name.startswith(LAST) and not any(part in name for part in POSITIONS)
    return param.ndim == 2 and name.endswith(".weight") and inside


def matrices_in(name: str) -> int:
    """How many matrices a hidden weight holds, one below the other: three in a fused qkv.

    Query, key and value are orthogonalised apart: one polar factor of all three would tie their scales
    together.  Source: found better at modded-nanogpt, nanochat (karpathy/nanochat#27) and Moonlight
    (NVIDIA/Megatron-LM#1428).
    """
    return 3 if name.endswith("qkv.weight") else 1
