"""Features of a timm model in memory, as `encode` has them of the run that it was exported from.

Suffixes: B images, T tokens, D width, S the image's side.
"""

from collections.abc import Callable
from typing import Any, cast

from timm.data.config import resolve_model_data_config
from torch import Tensor, nn, no_grad

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.encoder.features import CLASS_TOKEN, normalised


def timm_size(model: nn.Module) -> int:
    """Side of the images that it takes, pixels.  Raises UsageError for one that is no encoder of timm's."""
    if not callable(getattr(model, "forward_features", None)):
        raise UsageError(
            f"{type(model).__name__} is no timm model, it has no forward_features: give what turbomim.load "
            "or timm.create_model returns, or a run's path"
        )
    # what it was made for comes before what its weights were trained for
    asked: Any = getattr(getattr(model, "patch_embed", None), "img_size", None)
    height, width = asked or _data_of(model)["input_size"][-2:]
    if height != width:
        raise UsageError(f"the model takes images of {height} x {width} pixels: it must be a square")
    return int(width)


def timm_features(model: nn.Module, kind: str) -> Callable[[Tensor], Tensor]:
    """What gives one feature (B, D) float32 of images (B, S, S, 3) uint8 on the model's device.

    The model computes in the type of its own weights.
    kind: CLASS_TOKEN or MEAN, of which a model with a head over the mean (`fc_norm`) has the normalised one.
    Of a convolutional network the mean is over the places of its last map.
    Raises UsageError for a class token that the model has not, or that its head does not read; the function
    raises UserError where the model gives neither tokens nor a map.
    """
    data = _data_of(model)
    timm_model: Any = model
    prefix: int = getattr(model, "num_prefix_tokens", 0)
    head_norm: nn.Module | None = getattr(model, "fc_norm", None)
    pools_patches = isinstance(head_norm, nn.LayerNorm)
    dtype = next(model.parameters()).dtype
    if kind == CLASS_TOKEN and (not prefix or pools_patches):
        why = "its head reads the patch tokens" if prefix else "it has no class token"
        raise UsageError(f'pool "cls" of {type(model).__name__}: {why}; give "mean"')

    @no_grad()
    def features(images_BHWC: Tensor) -> Tensor:
        images_BCHW = normalised(images_BHWC, data["mean"], data["std"]).to(dtype)
        tokens: Tensor = timm_model.forward_features(images_BCHW)
        tokens_BTD = _channels_last(tokens, model).flatten(1, -2).float()
        if kind == CLASS_TOKEN:
            return tokens_BTD[:, 0]
        mean_BD = tokens_BTD[:, prefix:].mean(1)
        return mean_BD if head_norm is None else cast(Tensor, head_norm(mean_BD.to(dtype))).float()

    return features


def _channels_last(tokens: Any, model: nn.Module) -> Tensor:
    """Tokens (B, T, D), or a map (B, rows, columns, D): Swin's is one, ConvNeXt's has D before them.

    Raises UserError for anything else.
    """
    width, shape = getattr(model, "num_features", None), tuple(getattr(tokens, "shape", ()))
    if len(shape) in (3, 4) and shape[-1] == width:
        return cast(Tensor, tokens)
    if len(shape) == 4 and shape[1] == width:
        return cast(Tensor, tokens.permute(0, 2, 3, 1))
    raise UserError(
        f"{type(model).__name__}: its forward_features gives {shape or type(tokens).__name__}, neither "
        f"tokens nor a map of num_features = {width} channels: pool it in a loop over turbomim.centre_crops"
    )


def _data_of(model: nn.Module) -> dict[str, Any]:
    """How images become the model's input, as timm says it: input_size, mean, std."""
    # not every timm has its annotations
    resolve: Callable[..., dict[str, Any]] = resolve_model_data_config
    return resolve(model)
