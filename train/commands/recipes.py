"""`turbomim recipes`: the recipes in a table, or all that is known of one."""

import re
from dataclasses import dataclass
from typing import Annotated, Final

import tyro

from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.recipes.title import method_name
from turbomim.train.settings.flags import parse

HEADINGS: Final = ("recipe", "method", "target", "px", "epochs", "published")


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """Print the recipes in a table, or one with its source, results, FLOPs and the hours that it takes."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """Recipe to tell all about."""


def recipes_command(argv: list[str]) -> None:
    """`turbomim recipes [NAME]`.  Raises UserError for an unknown name."""
    name = parse(Recipes, argv, "turbomim recipes").name
    print(about(name) if name else recipe_table())


def recipe_table() -> str:
    """All recipes, a line each."""
    rows = [HEADINGS, *(_row(name) for name in RECIPES)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    table = "\n".join(line.rstrip() for line in lines)
    return (
        f"{table}\n\ntarget: what is predicted, and the cycles per image that its filter keeps\n"
        "published: of its authors' program, top-1 on ImageNet, fine-tuned and by a linear probe\n"
        "`turbomim recipes NAME` has a recipe's source, FLOPs and hours."
    )


def about(name: str) -> str:
    """A recipe's text, FLOPs and hours.  Raises UsageError for an unknown name."""
    config = recipe(name)
    # here: it imports torch, which the table need not wait for
    from turbomim.train.machine.price import recipe_price

    lines = [line.strip() for line in (RECIPES[name].__doc__ or "").strip().splitlines()]
    return "\n".join([name, *(f"    {line}".rstrip() for line in (*lines, recipe_price(config)))])


def published(text: str) -> str:
    """The scores that a recipe's text quotes as `fine-tune 83.3, linear 65.1`: `83.3, 65.1`."""
    scores = re.search(r"fine-tune ([\d.]+\d)(?:, linear ([\d.]+\d))?", " ".join(text.split()))
    return ", ".join(score for score in scores.groups() if score) if scores else ""


def _row(name: str) -> tuple[str, ...]:
    config = recipe(name)
    model = config.model
    target = "raw" if model.target == "raw" else f"{model.target} {model.radius:g}"
    text = RECIPES[name].__doc__ or ""
    return (
        name,
        method_name(config),
        target,
        str(config.data.size),
        f"{config.optim.epochs:g}",
        published(text),
    )
