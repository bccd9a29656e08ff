"""The plain ViT as backbones of detection and segmentation load it: detectron2's ViTDet, mmseg's MAE.

Neither is a dependency, so what is written is read back and compared with the names and shapes of their
sources: detectron2's modeling/backbone/vit.py inside a SimpleFeaturePyramid, mmseg's models/backbones/mae.py
and beit.py.  Both have more tensors than a file (relative positions, a pyramid, layer scales), which begin
with their initial values.  The final norm is a part of neither, and is left out.

Shapes: T tokens, D encoder width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

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
# layers of a block as detectron2's and mmseg's sources name them, and rows and columns of their weights in
# widths; written out here, so that it checks by which names a file was written
_LAYERS: Final = (
    ("norm1", "ln1", (1,)),
    ("norm2", "ln2", (1,)),
    ("attn.qkv", "attn.qkv", (3, 1)),
    ("attn.proj", "attn.proj", (1, 1)),
    ("mlp.fc1", "ffn.layers.0.0", (4, 1)),
    ("mlp.fc2", "ffn.layers.1", (1, 4)),
)


def write_detectron2(model: MAE, config: Config, folder: Path) -> list[Exported]:
    """Write detectron2.pth, {"model": …}, for `train.init_checkpoint`: loaded without heuristics.

    Position embeddings keep the class token's row, which ViTDet drops, and their size, which it resizes.
    """
    kept = {n: t for n, t in encoder_weights(model).items() if not n.startswith(("norm.", "cls_token"))}
    path = folder / "detectron2.pth"
    write_torch({"model": {DETECTRON2 + name: tensor for name, tensor in kept.items()}}, path)
    found = torch.load(path, weights_only=True)["model"]
    said = same_names(_shapes(found), detectron2_shapes(config), str(path))
    _check_positions(found[f"{DETECTRON2}pos_embed"], model, path)
    size = config.data.size
    return [
        Exported(
            path=path,
            load=f'train.init_checkpoint = "PATH"\nmodel.backbone.net.pretrain_img_size = {size}',
            checked=f"detectron2 is not asked: {said} are those of ViTDet's source, no norm, no class token",
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
    kept = {name: tensor for name, tensor in encoder_weights(model).items() if not name.startswith("norm.")}
    kept["pos_embed"] = resample_positions(kept["pos_embed"], size // patch)
    # mmselfsup and mmseg name a ViT alike, but for the prefix
    theirs = {name.removeprefix("backbone."): tensor for name, tensor in MMSELFSUP.to_theirs(kept).items()}
    path = folder / "mmseg.pth"
    write_torch(theirs, path)
    found = torch.load(path, weights_only=True)
    said = same_names(_shapes(found), mmseg_shapes(config, size), str(path))
    _check_positions(found["pos_embed"], model, path)
    return [
        Exported(
            path=path,
            load='backbone = dict(\n    type="MAE",\n'
            '    init_cfg=dict(type="Pretrained", checkpoint="PATH"),\n'
            f"    img_size=({size}, {size}),\n    patch_size={patch},\n"
            f"    embed_dims={config.model.width},\n    num_layers={config.model.depth},\n"
            f"    num_heads={config.model.heads},\n    init_values=1.0,\n"
            '    norm_cfg=dict(type="LN", eps=1e-6),\n)',
            checked=f"mmseg is not asked: {said} are those of its MAE backbone's source, no norm",
            note=(
                f"In a segmentor, for crops of {size} pixels; for others export again with `--size`. "
                "mmseg is not strict: where names are wrong it trains from scratch and does not say so. "
                "`gamma_…` and `relative_position_…` alone may be missing; "
                "`init_values` is 1.0 as these blocks have no layer scale."
            ),
        )
    ]


def detectron2_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes that ViTDet's ViT, with `pretrain_use_cls_token`, has from a pre-trained ViT."""
    layers = {name: widths for name, _, widths in _LAYERS}
    shapes = _vit_shapes(config, config.data.size, "patch_embed.proj", "blocks", layers)
    return {f"backbone.net.{name}": shape for name, shape in shapes.items()}


def mmseg_shapes(config: Config, size: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes that mmseg's MAE, at `size` pixels, has from a pre-trained ViT."""
    layers = {name: widths for _, name, widths in _LAYERS}
    shapes = _vit_shapes(config, size, "patch_embed.projection", "layers", layers)
    return {"cls_token": (1, 1, config.model.width), **shapes}


def _vit_shapes(
    config: Config, size: int, patches: str, blocks: str, layers: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of positions, patches and blocks, for images of `size` pixels a side."""
    width, patch = config.model.width, config.model.patch
    weights: dict[str, tuple[int, ...]] = {patches: (width, 3, patch, patch)}
    for block in range(config.model.depth):
        for layer, widths in layers.items():
            weights[f"{blocks}.{block}.{layer}"] = tuple(width * each for each in widths)
    shapes: dict[str, tuple[int, ...]] = {"pos_embed": (1, 1 + (size // patch) ** 2, width)}
    for name, shape in weights.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


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
