"""Sizes of a model as the shapes of a checkpoint's tensors tell them."""

import math

from turbomim.pipeline.system.errors import UserError
from turbomim.train.foreign.names import Weights
from turbomim.train.settings.dictionary import Values


def sizes_of(weights: Weights) -> Values:
    """Settings that these tensors, by our names, decide; none where they are a Swin's."""
    if any(name.startswith("layers.") for name in weights):
        return {"model": {}, "data": {}}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}

    def side(name: str, axis: int, axes: int) -> int:
        """Length of a tensor's axis, 0 where there is no such tensor."""
        shape = shapes.get(name, ())
        return shape[axis] if len(shape) == axes else 0

    def blocks(group: str) -> int:
        return len({name.split(".")[1] for name in shapes if name.startswith(f"{group}.")})

    # of ConvMAE's three convolutions, each on the one before
    strides = [side(f"patch_embed{stage}.proj.weight", 3, 4) for stage in (1, 2, 3)]
    widths = [side(f"patch_embed{stage}.proj.weight", 0, 4) for stage in (1, 2)]
    depths = [blocks(f"blocks{stage}") for stage in (1, 2)]
    patch = side("patch_embed.proj.weight", 3, 4) or math.prod(strides)
    bias = "rel_pos_bias.relative_position_bias_table"
    found = {
        "patch": patch,
        "width": side("patch_embed.proj.weight", 0, 4) or side("pos_embed", 2, 3),
        "depth": blocks("blocks") or blocks("blocks3"),
        "conv_widths": ",".join(map(str, widths)) if all(widths) else "",
        "conv_depths": ",".join(map(str, depths)) if all(depths) else "",
        "heads": side(bias, 1, 2),
        "decoder_width": side("decoder_embed.weight", 0, 2),
        "decoder_depth": blocks("decoder_blocks"),
    }
    tokens = side("pos_embed", 1, 3) - ("cls_token" in shapes)
    # SimMIM's table has a row for each step between two patches, and three for the class token
    steps = side(bias, 0, 2) - 3
    grid = math.isqrt(tokens) if tokens > 0 else (math.isqrt(max(steps, 0)) + 1) // 2
    return {
        "model": {key: value for key, value in found.items() if value},
        "data": {"size": grid * patch} if grid * patch else {},
    }


def check_plausible(found: Values, weights: Weights, where: str) -> None:
    """Raise UserError if there are too few numbers for the sizes: a model is built from them."""
    model = found["model"]
    needed = sum(
        12 * model.get(f"{role}width", 0) ** 2 * model.get(f"{role}depth", 0) for role in ("", "decoder_")
    )
    if needed > sum(tensor.numel() for tensor in weights.values()):
        given = ", ".join(f"{key} {value}" for key, value in model.items())
        raise UserError(f"{where}: its tensors are too few for the sizes they give, {given}")
