"""The settings of a model for another program's tensors: what tells them, and what has to be assumed."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.foreign.formats import LOW_PASS
from turbomim.train.foreign.names import Weights
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
# formats whose tensors do not tell all sizes
NEED_RECIPE = ("simmim", "convmae")
# bytes; an export's card has some hundred
MOST_CARD = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a command line says about a file."""

    file: Path
    # by whose names its tensors are, a key of FORMATS
    form: str
    # settings, as `lay_over` takes them
    flags: Values
    # a recipe's name; none: the tensors and the format decide
    recipe: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """Settings, and what no tensor told of them."""

    config: Config
    # where all that no tensor told is from, in words
    assumed: str
    # of heads that neither a flag nor a card told: by setting, what the guess rests on
    guessed_heads: dict[str, str]


def settings_for(weights: Weights, sizes: Values, asked: Asked) -> Settled:
    """The settings of a run with these weights, by our names, whose sizes are `sizes`.

    What counts, the first that tells a setting:

    1. flags;
    2. of heads, a card beside the file, which a flag may not contradict;
    3. the recipe, if one is named;
    4. the tensors: sizes, and heads by the width;
    5. the recipe that is the default of the format.

    The result must have the sizes of the tensors.  With --recipe cifar10-vit-t4 a file whose tensors are 192
    wide with patches of 8 pixels is refused, as that recipe's patches have 4: the error says that
    --model.patch 8 would fit.  Raises UsageError.
    """
    heads = guess_heads(sizes)
    of_card, card = heads_beside(asked.file, heads)
    for key, told in of_card.items():
        if (given := str(asked.flags.get("model", {}).get(key, told))) != told:
            raise UsageError(
                f"--model.{key} {given}: {card} says {told}: leave it out, or, if that is of another model, "
                f"move {asked.file} to a folder of its own"
            )
    flags = {**asked.flags, "model": {**of_card, **asked.flags.get("model", {})}}
    guessed: dict[str, str] = {}
    if asked.recipe:
        config = lay_over(recipe(asked.recipe), flags, "flags")
        assumed = f"heads, target and schedule, which are those of recipe {asked.recipe} and the flags"
    else:
        laid = {**sizes, **flags, "model": {**sizes["model"], **heads, **flags["model"]}}
        laid["data"] = {**sizes["data"], **flags.get("data", {})}
        # what the format's tensors tell is no recipe's any more
        laid["run"] = {**flags.get("run", {}), "recipe": ""}
        config = lay_over(default_settings(asked.form, weights), laid, "flags")
        guessed = {key: why_heads(sizes, key) for key in heads if key not in flags["model"]}
        assumed = "target and schedule, which are defaults"
        if guessed:
            guesses = ", ".join(f"{key} {heads[key]} ({why})" for key, why in guessed.items())
            assumed = f"{guesses}; {assumed}"
    check_sizes(config, sizes, {**heads, **of_card}, str(asked.file))
    if of_card.keys() - asked.flags.get("model", {}).keys():
        assumed += f"; heads as {card} has them"
    return Settled(config=config, assumed=assumed, guessed_heads=guessed)


def check_sizes(config: Config, sizes: Values, heads: Mapping[str, object], where: str) -> None:
    """Raise UsageError that names the flags that would fit if settings have not the tensors' sizes."""
    wrong = [
        f"{section}.{key} {getattr(getattr(config, section), key)}"
        for section, values in sizes.items()
        for key, value in values.items()
        if getattr(getattr(config, section), key) != value
    ]
    if wrong:
        fitting = {"model": {**sizes["model"], **heads}, "data": sizes["data"]}
        flags = " ".join(
            f"--{section}.{key} {value}"
            for section, values in fitting.items()
            for key, value in values.items()
        )
        raise UsageError(f"{where} does not fit {', '.join(wrong)}: it would fit {flags}")


def heads_beside(file: Path, wanted: Collection[str]) -> tuple[dict[str, str], Path | None]:
    """Heads, by their settings, that a card beside a file tells, and which card it is.

    A card is the .json that `turbomim export` wrote, the config.json of transformers or timm, or of a
    checkpoint the config.yaml of its run; others, and damaged ones, are passed over.
    """
    cards = [file.with_suffix(".json"), file.with_name("config.json")]
    # RUN/ckpt/STEP/FILE
    if file.parent.parent.name == "ckpt":
        cards.append(file.parent.parent.parent / "config.yaml")
    for card in cards:
        said = _heads_of(card)
        heads = {key: str(said[key]) for key in wanted if type(said.get(key)) is int}
        if heads:
            return heads, card
    return {}, None


def _heads_of(card: Path) -> dict[str, Any]:
    """What a card says about heads, by our names of settings; nothing if it is none."""
    try:
        if not card.is_file() or card.stat().st_size > MOST_CARD:
            return {}
        text = card.read_text(encoding="utf-8")
        if card.suffix == ".yaml":
            return dict(yaml.safe_load(text)["model"])
        tree = json.loads(text)
        if not isinstance(tree, dict):
            return {}
        if tree.get("model_type") in ("vit", "vit_mae"):
            return {
                "heads": tree.get("num_attention_heads"),
                "decoder_heads": tree.get("decoder_num_attention_heads"),
            }
        if "model_args" in tree:
            return {"heads": tree["model_args"].get("num_heads")}
        if "turbomim" not in tree:
            return {}
        # cards of before had timm's arguments alone
        return tree if "heads" in tree else {"heads": tree["timm"]["num_heads"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError):
        return {}


def guess_heads(sizes: Values) -> dict[str, int]:
    """Heads where no tensor tells them: of published models of that width, or heads of the usual width."""
    guessed = {}
    for role, published in PUBLISHED_HEADS.items():
        width = sizes["model"].get(f"{role}width")
        if width and f"{role}heads" not in sizes["model"]:
            guessed[f"{role}heads"] = published.get(width, max(1, width // HEAD_WIDTH[role]))
    return guessed


def why_heads(sizes: Values, key: str) -> str:
    """What a guess of `guess_heads` rests on, in words."""
    role = key.removesuffix("heads")
    if sizes["model"][f"{role}width"] in PUBLISHED_HEADS[role]:
        return "as published models of that width have"
    return f"width // {HEAD_WIDTH[role]}"


def default_settings(form: str, weights: Weights) -> Config:
    """The settings that the sizes of an import without a recipe are laid over.

    Raises UsageError for a format whose tensors do not tell all sizes.
    """
    if form in NEED_RECIPE:
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
