"""What a run is called where people read of it: its recipe, and what it trains in a few words."""

from typing import Final

from turbomim.train.settings.config import Config

# as their papers write them; PixMIM is MAE with a low-pass target, and LSMAE is MAE with larger mask units
METHODS: Final = {
    "mae": "MAE",
    "mff": "MFF",
    "convmae": "ConvMAE",
    "simmim": "SimMIM",
    "simmim-swin": "SimMIM with Swin",
    "simmim-swinv2": "SimMIM with Swin V2",
}


def method_name(config: Config) -> str:
    """A method as its paper writes it; one that is not known here as the settings have it."""
    return METHODS.get(config.model.method, config.model.method)


def method_text(config: Config) -> str:
    """`MAE, gaussian target, radius 40`: the method, what it predicts, and the cycles per image that stay."""
    model = config.model
    radius = "" if model.target == "raw" else f", radius {model.radius:g}"
    return f"{method_name(config)}, {model.target} target{radius}"


def run_title(config: Config, recipe: str | None) -> str:
    """`pixmim-vit-b16-300e (MAE, gaussian target, radius 40)`; recipe: that began the run, if it is known."""
    return f"{recipe or 'no recipe'} ({method_text(config)})"
