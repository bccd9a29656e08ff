"""The plain ViT as backbones of detection and segmentation load it: detectron2's ViTDet, mmseg's MAE.

Neither is a dependency, so what is written is read back and compared with the names and shapes of their
sources: detectron2's modeling/backbone/vit.py inside a SimpleFeaturePyramid, mmseg's models/backbones/mae.py
and beit.py.  Both have more tensors than a file (relative positions, a pyramid, layer scales), which begin
with their initial values.  The final norm is a part of neither, and is left out.

Shapes: T tokens, D encoder width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.encoder.resize import resample_positions
from turbomim.train.export.check import same_names
from turbomim.train.export.weights import Exported, encoder_weights, write_torch
from turbomim.train.foreign.formats import MMSELFSUP
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config

# what a detector's names of its ViT begin with: without, only its name-matching heuristics find them
DETECTRON2: Final = "backbone.net."
# mmselfsup and mmseg name a ViT alike, but for this
_MMSEG_PREFIX: Final = "backbone."
# matrices of a block: rows and columns in widths
_MATRICES: Final = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}

T = TypeVar("T")


def write_detectron2(model: MAE, config: Config, folder: Path) -> list[Exported]:
    """Write detectron2.pth, {"model": …}, for `train.init_checkpoint`: loaded without heuristics.

    Position embeddings keep the class token's row, which ViTDet drops, and their size, which it resizes.
    """
    path = folder / "detectron2.pth"
    write_torch({"model": by_detectron2(encoder_weights(model))}, path)
    found = torch.load(path, weights_only=True)["model"]
    said = same_names(_shapes(found), detectron2_shapes(config), str(path))
    _check_positions(found[f"{DETECTRON2}pos_embed"], model, path)
    size = config.data.size
    return [
        Exported(
            path=path,
            load=f"train.init_checkpoint = PATH\nmodel.backbone.net.pretrain_img_size = {size}",
            checked=f"detectron2 is not asked: {said} are those of ViTDet's source, no norm, no class token",
            library="detectron2",
            note=(
                "In a ViTDet configuration, or, without spaces, behind `lazyconfig_train_net.py`. "
                "No `?matching_heuristics=True`: the names are the model's. "
                f"`model.backbone.net` needs {_sizes(config)}. "
                "`rel_pos_h`, `rel_pos_w`, `simfp_…` and the heads alone may be missing in its log."
            ),
        )
    ]


def write_mmseg(model: MAE, config: Config, folder: Path, *, size: int = 0) -> list[Exported]:
    """Write mmseg.pth, tensors by name without a wrapper or prefix, for the backbone's `init_cfg`.

    size: pixels a side of mmseg's crops, to which positions are resized; 0 leaves them, for versions of mmseg
    that resize them.  Raises UsageError for a size that patches do not divide.
    """
    size, patch = size or config.data.size, config.model.patch
    if size < patch or size % patch:
        raise UsageError(f"--size {size}: must be a multiple of the patch, {patch} pixels")
    weights = encoder_weights(model)
    weights["pos_embed"] = resample_positions(weights["pos_embed"], size // patch)
    path = folder / "mmseg.pth"
    write_torch(by_mmseg(weights), path)
    found = torch.load(path, weights_only=True)
    said = same_names(_shapes(found), mmseg_shapes(config, size), str(path))
    _check_positions(found["pos_embed"], model, path)
    return [
        Exported(
            path=path,
            load='backbone = dict(\n    type="MAE",\n    init_cfg=dict(type="Pretrained", checkpoint=PATH),\n'
            f"    img_size=({size}, {size}),\n    patch_size={patch},\n"
            f"    embed_dims={config.model.width},\n    num_layers={config.model.depth},\n"
            f"    num_heads={config.model.heads},\n    init_values=1.0,\n"
            '    norm_cfg=dict(type="LN", eps=1e-6),\n)',
            checked=f"mmseg is not asked: {said} are those of its MAE backbone's source, no norm",
            library="mmseg",
            note=(
                f"In a segmentor, for crops of {size} pixels; for others export again with `--size`. "
                "mmseg is not strict: where names are wrong it trains from scratch and does not say so. "
                "`gamma_…` and `relative_position_…` alone may be missing; "
                "`init_values` is 1.0 as these blocks have no layer scale."
            ),
        )
    ]


def by_detectron2(ours: Mapping[str, T]) -> dict[str, T]:
    """What ViTDet's ViT has of an encoder, by its names."""
    return {
        DETECTRON2 + name: value
        for name, value in ours.items()
        if not name.startswith(("norm.", "cls_token"))
    }


def by_mmseg(ours: Mapping[str, T]) -> dict[str, T]:
    """What mmseg's MAE has of an encoder, by its names."""
    kept = {name: value for name, value in ours.items() if not name.startswith("norm.")}
    return {name.removeprefix(_MMSEG_PREFIX): value for name, value in MMSELFSUP.to_theirs(kept).items()}


def detectron2_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes that ViTDet's ViT, with `pretrain_use_cls_token`, has from a pre-trained ViT."""
    return by_detectron2(vit_shapes(config, config.data.size))


def mmseg_shapes(config: Config, size: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes that mmseg's MAE, at `size` pixels, has from a pre-trained ViT."""
    return by_mmseg(vit_shapes(config, size))


def vit_shapes(config: Config, size: int) -> dict[str, tuple[int, ...]]:
    """Our names and shapes of a ViT's encoder for images of `size` pixels a side."""
    width, patch = config.model.width, config.model.patch
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (size // patch) ** 2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
    }
    for block in range(config.model.depth):
        for norm in ("norm1", "norm2"):
            shapes |= _layer(f"blocks.{block}.{norm}", (width,))
        for layer, (rows, columns) in _MATRICES.items():
            shapes |= _layer(f"blocks.{block}.{layer}", (rows * width, columns * width))
    return shapes | _layer("norm", (width,))


def _layer(name: str, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _check_positions(written_1TD: Tensor, model: MAE, path: Path) -> None:
    """Raise UserError if the class token's row, or all rows where none was resized, are not the run's."""
    ours_1TD = model.pos_embed.detach().float().cpu()
    if not torch.equal(written_1TD[:, :1], ours_1TD[:, :1]):
        raise UserError(
            f"{path}: the class token's position is not this run's: nothing was exported; report it"
        )
    if written_1TD.shape == ours_1TD.shape and not torch.equal(written_1TD, ours_1TD):
        raise UserError(f"{path}: positions are not this run's: nothing was exported; report it")


def _sizes(config: Config) -> str:
    model = config.model
    return f"embed_dim {model.width}, depth {model.depth}, num_heads {model.heads}, patch_size {model.patch}"
