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
    """Floating-point operations of one forward and backward, multiply-add = 2, matrix products only.

    Of an image of full size.
    """
    return method_of(config).flops_per_image(config)


def mean_flops(config: Config, steps: int, some: range | None = None) -> float:
    """The same of an image in the mean over the steps of a run, or over some of them, from 0.

    `data.sizes` gives some of them smaller images.
    """
    some = range(steps) if some is None else some
    by_size = {each.data.size: flops_per_image(each) for each in (*config.smaller(), config)}
    if len(by_size) == 1 or not some:
        return by_size[config.data.size]
    shared = ((stage, _common(stage.steps, some)) for stage in config.data.stages(steps))
    return sum(by_size[stage.size] * count for stage, count in shared) / len(some)


def _common(one: range, other: range) -> int:
    """How many numbers two ranges of step 1 share."""
    return max(0, min(one.stop, other.stop) - max(one.start, other.start))
