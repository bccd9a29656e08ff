"""Names of other programs' checkpoints, to ours and back: pure functions of tensors by name.

Ours are those of the published MAE checkpoints, which timm's ViT has too.  Values pass as they are, position
embeddings too: mmselfsup's have their halves swapped against ours, so they are kept and never made anew.
Sources: mmselfsup's mmcls2timm.py and decoder, mmpretrain's mff.py, long_seq_mae's and SimMIM's models.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from turbomim.pipeline.system.errors import UserError
from turbomim.train.foreign.hf import from_hf
from turbomim.train.foreign.names import Names, Weights

# groups of names in one error
MOST_NAMED = 8

# of whole checkpoints, then of a backbone alone
MMSELFSUP: Final = Names(
    begin=(
        ("patch_embed.proj.", "backbone.patch_embed.projection."),
        ("blocks.", "backbone.layers."),
        ("norm.", "backbone.ln1."),
        # of a fine-tuning that pools
        ("fc_norm.", "backbone.ln2."),
        ("decoder_norm.", "neck.ln1."),
        ("decoder_", "neck.decoder_"),
        ("mask_token", "neck.mask_token"),
        ("", "backbone."),
        ("patch_embed.proj.", "patch_embed.projection."),
        ("blocks.", "layers."),
        ("norm.", "ln1."),
        ("fc_norm.", "ln2."),
    ),
    inside=(
        (".norm1.", ".ln1."),
        (".norm2.", ".ln2."),
        (".mlp.fc1.", ".ffn.layers.0.0."),
        (".mlp.fc2.", ".ffn.layers.1."),
    ),
)
SIMMIM: Final = Names(begin=(("", "encoder."),))
# of a fine-tuning that pools
POOLED: Final = Names(begin=(("norm.", "fc_norm."),))


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How a program names its tensors."""

    # its tensors by our names
    ours: Callable[[Weights], dict[str, Tensor]]
    # names one of which its checkpoints have
    signs: tuple[str, ...]
    # regular expression of names that hold no weights and may be left out
    dropped: str = "(?!)"


def from_mmselfsup(weights: Weights) -> dict[str, Tensor]:
    """Our names for those of mmselfsup and mmpretrain: MAE, PixMIM and MFF, whole or the backbone alone."""
    return from_mae(MMSELFSUP.to_ours(weights))


def from_simmim(weights: Weights) -> dict[str, Tensor]:
    """Our names for SimMIM's, of any of its encoders: timm's.

    A published Swin's stage ends with the merging of patches that timm's next stage begins with.
    """
    ours = SIMMIM.to_ours(weights)
    return {
        re.sub(r"(?<=^layers\.)\d{1,3}(?=\.downsample\.)", lambda m: str(int(m[0]) + 1), name): tensor
        for name, tensor in ours.items()
    }


def from_lsmae(weights: Weights) -> dict[str, Tensor]:
    """Our names for LSMAE's, which are MAE's.

    Where it gives keys no bias, it has one for queries and one for values: ours is both, with zeros between.
    """
    joined = dict(weights)
    for name, query_D in weights.items():
        stem = name.removesuffix("q_bias")
        value_D = weights.get(f"{stem}v_bias")
        if stem == name or value_D is None or query_D.ndim != 1 or value_D.shape != query_D.shape:
            continue
        if f"{stem}qkv.bias" in joined:
            raise UserError(f"{stem}qkv.bias and {name} are two biases of the same layer")
        del joined[name], joined[f"{stem}v_bias"]
        joined[f"{stem}qkv.bias"] = torch.cat([query_D, torch.zeros_like(query_D), value_D])
    return from_mae(joined)


def from_mae(weights: Weights) -> dict[str, Tensor]:
    """The same names, which are ours; a norm of pooled tokens takes the place of the norm that it replaced.

    Source: facebookresearch/mae fine-tunes without `norm`: `fc_norm` normalises the mean of the patch tokens.
    Normalising tokens by it is the nearest that an encoder without a head has.
    """
    if not is_pooled(weights):
        return dict(weights)
    return POOLED.to_ours(weights)


def is_pooled(weights: Weights) -> bool:
    """Whether these are MAE's names of a fine-tuning that pools: a norm of the mean, none of the tokens."""
    return "fc_norm.weight" in weights and "norm.weight" not in weights


def note_of_pooling(theirs: Weights) -> list[str]:
    """What to say of a fine-tuning's norm, by MAE's names or mmpretrain's; nothing of other files."""
    said = (
        "fine-tuned with pooling, without a final norm: fc_norm, which normalised the mean of the patch "
        "tokens, stands for it and normalises every token: their mean is close to what the head saw"
    )
    return [said] if is_pooled(Names(begin=MMSELFSUP.begin).to_ours(theirs)) else []


# what the low-pass of PixMIM's checkpoints is made of
LOW_PASS = "target_generator.low_pass_filter"
_MM_DROPPED = r"target_generator\.low_pass_filter|data_preprocessor\.(mean|std)"

# what a classifier has above its encoder, by the names of MAE, timm, mmpretrain and transformers
HEADS: Final = (
    r"(head|head_dist|fc_norm|pooler\.dense|classifier|head\.fc|head\.layers\.head)\.(weight|bias)"
    r"|embeddings\.mask_token"
)

FORMATS: Final[dict[str, Format]] = {
    "mae": Format(ours=from_mae, signs=("patch_embed.proj.weight",), dropped=HEADS),
    "mmselfsup": Format(
        ours=from_mmselfsup,
        signs=("backbone.patch_embed.projection.weight", "patch_embed.projection.weight"),
        dropped=f"{_MM_DROPPED}|{HEADS}",
    ),
    "mff": Format(ours=from_mmselfsup, signs=("backbone.proj_weights", "proj_weights"), dropped=_MM_DROPPED),
    "simmim": Format(
        ours=from_simmim,
        signs=("encoder.mask_token",),
        # computed from the window
        dropped=r".*\.(relative_position_index|relative_coords_table|attn_mask)",
    ),
    "convmae": Format(ours=dict, signs=("patch_embed1.proj.weight",)),
    "lsmae": Format(ours=from_lsmae, signs=("patch_embed.proj.weight",), dropped=HEADS),
    "hf": Format(
        ours=from_hf,
        signs=(
            "vit.embeddings.patch_embeddings.projection.weight",
            "embeddings.patch_embeddings.projection.weight",
        ),
        dropped=HEADS,
    ),
}


# exports that nothing here takes back, by what their names begin with
_EXPORTS: Final = {
    "beit.": "a BEiT of transformers, as `export FINETUNING --to hf` writes it: give the fine-tuning itself "
    "(to embed or eval), or its export for timm",
    "backbone.net.": "an export for detectron2, without a final norm: give the run, or its export for timm",
}


def formats_of(names: Iterable[str]) -> list[str]:
    """The formats that a checkpoint with these names may have."""
    names = set(names)
    if is_beit_or_swin(names):
        return []
    fitting = [name for name, form in FORMATS.items() if names & set(form.signs)]
    # an MFF's has all of an mmselfsup MAE's names, and more
    return ["mff"] if "mff" in fitting else fitting


def check_format(names: Collection[str], form: str, where: str) -> None:
    """Raise UserError if the names are not those of the format, and name the ones that fit."""
    fitting = formats_of(names)
    if form in fitting:
        return
    if is_beit_or_swin(names):
        raise UserError(
            f"{where} is a SimMIM encoder, or another Beit or Swin by timm's names; files are taken of plain "
            "ViTs, and by import of SimMIM's own checkpoints: give the run that it was exported from"
        )
    for begin, what in _EXPORTS.items():
        if any(name.startswith(begin) for name in names):
            raise UserError(f"{where} is {what}")
    if fitting:
        raise UserError(f"{where} is not of --from {form}: its names are those of {' or '.join(fitting)}")
    raise UserError(
        f"{where} is of no known program ({', '.join(FORMATS)}): {next(iter(names))!r} is its first tensor"
    )


def is_beit_or_swin(names: Iterable[str]) -> bool:
    """Whether these are timm's names of a SimMIM encoder: of shared relative positions, or of stages."""
    return any(re.match(r"rel_pos_bias\.|layers\.\d+\.blocks\.", name) for name in names)


def grouped(names: Iterable[str]) -> str:
    """All names on one line: those of numbered blocks together, with how many."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "N", name) for name in sorted(names))
    parts = [f"{name} ({count})" if count > 1 else name for name, count in counts.items()]
    more = [f"and {len(parts) - MOST_NAMED} more kinds"] if len(parts) > MOST_NAMED else []
    return ", ".join(parts[:MOST_NAMED] + more)
