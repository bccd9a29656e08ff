"""Another program's tensors in the places of a model's: all of them, or what does not fit."""

import re
from dataclasses import dataclass

from torch import Tensor

from turbomim.pipeline.system.errors import UserError
from turbomim.train.foreign.formats import grouped
from turbomim.train.foreign.names import Weights
from turbomim.train.models.mae import MAE


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A checkpoint's tensors in the places of a model's."""

    # every tensor of the model
    weights: dict[str, Tensor]
    # names of the file's that were taken
    taken: list[str]
    # names that keep their initial values: the decoder's, where the file has none of it
    fresh: list[str]
    # names of the file's that hold no weights
    dropped: list[str]


def place_tensors(weights: Weights, model: MAE, dropped: str, where: str, remedy: str) -> Placed:
    """Put tensors of our names in the places of a model's, none left over and none missing.

    Of a file without any tensor of the decoder, what only pre-training needs may be missing, and stays as the
    model has it.  dropped: a regular expression of names that hold no weights; remedy: what ends an error.
    Raises UserError that names all that does not fit.
    """
    ours = model.state_dict()
    left_out = [name for name in weights if name not in ours and re.fullmatch(dropped, name)]
    taken = [name for name in ours if name in weights]
    fresh = {name for name in ours if name.startswith(model.decoder_names)} - weights.keys()
    if any(name.startswith("decoder") for name in taken):
        fresh = set()
    shaped = [
        f"{name} {tuple(weights[name].shape)} for {tuple(ours[name].shape)}"
        for name in taken
        if weights[name].shape != ours[name].shape
        or weights[name].is_floating_point() != ours[name].is_floating_point()
    ]
    problems = {
        "missing": ours.keys() - weights.keys() - fresh,
        "unexpected": weights.keys() - ours.keys() - set(left_out),
        "of another shape": shaped,
    }
    said = [f"{what}: {grouped(names)}" for what, names in problems.items() if names]
    norm = {"norm.weight", "norm.bias"}
    if len(said) == 1 and problems["missing"] == norm:
        remedy = "the final norm is not there, as in exports for mmseg: give the run, or its export for timm"
    if said:
        raise UserError(f"{where} does not fit; {'; '.join(said)}; {remedy}")
    placed = {name: weights[name].to(ours[name].dtype, copy=True).contiguous() for name in taken}
    bad = [name for name, tensor in placed.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise UserError(f"{where}: numbers that are not finite in {grouped(bad)}: do not use it")
    return Placed(
        weights={name: placed.get(name, tensor) for name, tensor in ours.items()},
        taken=taken,
        fresh=sorted(fresh),
        dropped=left_out,
    )
