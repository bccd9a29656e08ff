"""Sizes of a model as the shapes of a checkpoint's tensors tell them, and the settings that follow."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.foreign.formats import LOW_PASS
from turbomim.train.foreign.renamed import Weights
from turbomim.train.models.named_encoder import lay_over
from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import Values

# recipes that imports without one go on as, but for sizes
MAE_RECIPE, PIXMIM_RECIPE = "mae-vit-b16-800e", "pixmim-ideal-vit-b16-800e"
# heads by width, where no tensor tells: of published encoders and of published decoders
PUBLISHED_HEADS = {"": {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}, "decoder_": {384: 12, 512: 16}}
# values an attention head has at any other width
HEAD_WIDTH = {"": 64, "decoder_": 32}
# bytes; an export's card has some hundred
MOST_CARD = 2**16


def sizes(weights: Weights) -> Values:
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
    patch = side("patch_embed.proj.weight", 3, 4) or math.prod(strides)
    bias = "rel_pos_bias.relative_position_bias_table"
    found = {
        "patch": patch,
        "width": side("patch_embed.proj.weight", 0, 4) or side("pos_embed", 2, 3),
        "depth": blocks("blocks") or blocks("blocks3"),
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


def settle(
    found: Values, weights: Weights, form: str, recipe_name: str, flags: Values, where: str
) -> tuple[Config, str]:
    """The settings of a run with these weights, and in words what no tensor told.

    A recipe and flags must agree with the tensors; without a recipe the tensors give the sizes.
    Raises UsageError that names the settings that would fit.
    """
    heads = guess_heads(found)
    if recipe_name:
        config = lay_over(recipe(recipe_name), flags, "flags")
        told = f"heads, target and schedule, which are those of recipe {recipe_name} and the flags"
    else:
        laid = {section: {**values} for section, values in found.items()}
        laid["model"] = {**laid["model"], **heads}
        for section, values in flags.items():
            laid.setdefault(section, {}).update(values)
        config = lay_over(default(form, weights), laid, "flags")
        guessed = ", ".join(
            f"{key} {value} ({why_heads(found, key)})"
            for key, value in heads.items()
            if key not in flags.get("model", {})
        )
        told = f"{guessed + '; ' if guessed else ''}target and schedule, which are defaults"
    wrong = [
        f"{section}.{key} {getattr(getattr(config, section), key)}"
        for section, values in found.items()
        for key, value in values.items()
        if getattr(getattr(config, section), key) != value
    ]
    if wrong:
        fitting = {"model": {**found["model"], **heads}, "data": found["data"]}
        fit = " ".join(
            f"--{s}.{key} {value}" for s, values in fitting.items() for key, value in values.items()
        )
        raise UsageError(f"{where} does not fit {', '.join(wrong)}: it would fit {fit}")
    return config, told


def with_card(path: Path, found: Values, flags: Values) -> tuple[Values, Path | None]:
    """The flags, and for heads that they do not tell a card beside a file, and which card it was.

    A card is the .json that `turbomim export` wrote, or transformers' config.json; others, and damaged ones,
    are passed over.
    """
    for card in (path.with_suffix(".json"), path.with_name("config.json")):
        told = _heads_of(card)
        heads = {key: str(told[key]) for key in guess_heads(found) if type(told.get(key)) is int}
        if heads:
            return {**flags, "model": {**heads, **flags.get("model", {})}}, card
    return flags, None


def _heads_of(card: Path) -> dict[str, Any]:
    """What a card says about heads, by our names of settings; nothing if it is none."""
    try:
        if not card.is_file() or card.stat().st_size > MOST_CARD:
            return {}
        tree = json.loads(card.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            return {}
        if tree.get("model_type") in ("vit", "vit_mae"):
            return {
                "heads": tree.get("num_attention_heads"),
                "decoder_heads": tree.get("decoder_num_attention_heads"),
            }
        if "turbomim" not in tree:
            return {}
        # cards of before had timm's arguments alone
        return tree if "heads" in tree else {"heads": tree["timm"]["num_heads"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def guess_heads(found: Values) -> dict[str, int]:
    """Heads where no tensor tells them: of published models of that width, or heads of the usual width."""
    guessed = {}
    for role, published in PUBLISHED_HEADS.items():
        width = found["model"].get(f"{role}width")
        if width and f"{role}heads" not in found["model"]:
            guessed[f"{role}heads"] = published.get(width, max(1, width // HEAD_WIDTH[role]))
    return guessed


def why_heads(found: Values, key: str) -> str:
    """What a guess of `guess_heads` rests on, in words."""
    role = key.removesuffix("heads")
    if found["model"][f"{role}width"] in PUBLISHED_HEADS[role]:
        return "as published models of that width have"
    return f"width // {HEAD_WIDTH[role]}"


def default(form: str, weights: Weights) -> Config:
    """The settings that the sizes of an import without a recipe are laid over.

    Raises UsageError for a format whose tensors do not tell all sizes.
    """
    if form in ("simmim", "convmae"):
        known = ", ".join(name for name in RECIPES if recipe(name).model.method.startswith(form))
        raise UsageError(
            f"--from {form} needs --recipe NAME, as its tensors do not tell all of its encoder: {known}"
        )
    if form == "mff":
        config = recipe(PIXMIM_RECIPE)
        return replace(config, model=replace(config.model, method="mff", target="raw"))
    if LOW_PASS in weights:
        return recipe(PIXMIM_RECIPE)
    config = recipe(MAE_RECIPE)
    if form == "lsmae":
        model = replace(config.model, mask_unit=2, decoder_width=384, decoder_heads=12)
        return replace(config, model=model)
    # mmselfsup spares tokens from decay
    return replace(config, optim=replace(config.optim, decay_tokens=form in ("mae", "hf")))
