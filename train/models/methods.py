"""The methods by name.  Another one is a class with MAE's methods and a line here."""

from typing import Final

import torch

from turbomim.pipeline.system.errors import unknown_name
from turbomim.train.models.convmae import ConvMAE
from turbomim.train.models.mae import MAE
from turbomim.train.models.mff import MFF
from turbomim.train.models.simmim import SimMIM
from turbomim.train.models.simmim_swin import SimMIMSwin, SimMIMSwinV2
from turbomim.train.settings.config import Config

METHODS: Final[dict[str, type[MAE]]] = {
    "mae": MAE,
    "mff": MFF,
    "convmae": ConvMAE,
    "simmim": SimMIM,
    "simmim-swin": SimMIMSwin,
    "simmim-swinv2": SimMIMSwinV2,
}


def method_of(config: Config) -> type[MAE]:
    """The class of `model.method`.  Raises UsageError for an unknown one, with the nearest known."""
    name = config.model.method
    if name not in METHODS:
        raise unknown_name("model.method", name, METHODS)
    return METHODS[name]


# layers are made with random weights, which are thrown away: the caller's generator stays as it is
@torch.random.fork_rng(devices=[])
def make_model(config: Config, *, initial: bool = True) -> MAE:
    """A model of these settings, on the default device; initial: with its initial weights, else with any."""
    return method_of(config)(config, initial=initial)


def flops_per_image(config: Config) -> float:
    """Floating-point operations of one forward and backward, multiply-add = 2, matrix products only."""
    return method_of(config).flops_per_image(config)
