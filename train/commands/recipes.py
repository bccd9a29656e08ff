"""`turbomim recipes`: every recipe with its source, its FLOPs and the hours that it takes."""

from turbomim.train.recipes.table import RECIPES
from turbomim.train.settings.flags import no_arguments


def recipes_command(argv: list[str]) -> None:
    """Print them all.  Raises UsageError for arguments, of which there are none."""
    no_arguments(argv, "recipes")
    from turbomim.train.machine.price import recipe_price

    for name, function in RECIPES.items():
        doc = (function.__doc__ or "").strip().splitlines()
        print(name)
        for line in doc:
            print(f"    {line.strip()}" if line.strip() else "")
        print(f"    {recipe_price(function())}\n")
