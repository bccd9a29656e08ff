"""Whether what another program loads is this run's model: its outputs, and its names and shapes.

Shapes: B images, T tokens, D encoder width, H W pixels, C channels.
"""

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from turbomim.pipeline.system.errors import UserError
from turbomim.train.foreign.formats import grouped
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config

IMAGES = 3
# of two float32 outputs, whose sums were taken in another order: largest difference, times the largest output
TOLERANCE = 1e-5

Shapes = Mapping[str, tuple[int, ...]]


def random_images(config: Config) -> Tensor:
    """The images (B, H, W, C) uint8 that outputs are compared on, always the same."""
    size = config.data.size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (IMAGES, size, size, 3), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def same_features(model: MAE, config: Config, theirs: Callable[[Tensor], Tensor], program: str) -> str:
    """Compare a program's tokens of random images with this run's; say how far they are apart.

    theirs: (B, H, W, C) uint8 to (B, T, D), or to that in other axes.  Raises UserError as `same`.
    """
    images_BHWC = random_images(config)
    ours_BTD = model.features(images_BHWC)
    theirs_BTD = theirs(images_BHWC)
    if theirs_BTD.numel() == ours_BTD.numel():
        theirs_BTD = theirs_BTD.reshape(ours_BTD.shape)
    return same(ours_BTD, theirs_BTD, f"{program}: features of {IMAGES} random images")


def same(ours: Tensor, theirs: Tensor, what: str) -> str:
    """Say how far two float32 outputs are apart.  Raises UserError if it is more than rounding."""
    if ours.shape != theirs.shape:
        raise UserError(f"{what} are {tuple(theirs.shape)}, this run's {tuple(ours.shape)}: {_REMEDY}")
    difference = float((ours - theirs).abs().max())
    most = TOLERANCE * max(1.0, float(ours.abs().max()))
    # not a number is not within the limit either
    if not difference <= most:
        raise UserError(
            f"{what} differ from this run's by {difference:.1e}, more than rounding does ({most:.1e}): "
            f"{_REMEDY}"
        )
    return f"{what} are this run's, largest difference {difference:.1e}"


def same_names(found: Shapes, expected: Shapes, where: str) -> str:
    """Say that names and shapes are those that a program looks for.

    Raises UserError that names what is missing, unexpected, of another shape, or under another prefix.
    """
    begins, wanted = _prefix(found), _prefix(expected)
    if begins != wanted and not found.keys() & expected.keys():
        raise UserError(
            f"{where}: its names begin with {begins!r}, its program looks for {wanted!r}, and would load "
            f"nothing and not say so: {_REMEDY}"
        )
    problems = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "of another shape": {
            f"{name} {tuple(found[name])} for {tuple(shape)}"
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != tuple(shape)
        },
    }
    said = [f"{what}: {grouped(names)}" for what, names in problems.items() if names]
    if said:
        raise UserError(f"{where} is not what its program looks for; {'; '.join(said)}: {_REMEDY}")
    return f"{len(found)} names and shapes"


_REMEDY = (
    "nothing was exported; --to safetensors writes the encoder by its own names; report it with the versions"
)


def _prefix(names: Shapes) -> str:
    """The parts, between dots, that all names begin with."""
    parts = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(some[0] for some in itertools.takewhile(lambda some: len(set(some)) == 1, parts))
