"""The model that another program's checkpoint fits, every tensor in its place."""

from dataclasses import dataclass

from turbomim.pipeline.system.errors import UserError
from turbomim.train.foreign.formats import FORMATS, check_format, note_of_pooling
from turbomim.train.foreign.names import Weights
from turbomim.train.foreign.placing import Placed, place_tensors
from turbomim.train.foreign.settings import Asked, Settled, settings_for
from turbomim.train.foreign.sizes import check_plausible, sizes_of
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.settings.dictionary import Values


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForeignModel:
    """A model with the weights of a file, and what was found out about them."""

    model: MAE
    settled: Settled
    placed: Placed
    # what the shapes told
    sizes: Values
    # what is worth saying of the file, a sentence each
    notes: list[str]


def model_of(theirs: Weights, asked: Asked, remedy: str) -> ForeignModel:
    """Build the model that a file's tensors fit, with these tensors in it.

    remedy: what helps where tensors do not fit.  Raises UserError: names of another format, sizes that cannot
    be or that flags and recipe contradict, tensors without a place, places without a tensor.
    """
    where, form = str(asked.file), FORMATS[asked.form]
    check_format(theirs, asked.form, where)
    try:
        notes = note_of_pooling(theirs)
        weights = form.ours(theirs)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    sizes = sizes_of(weights)
    check_plausible(sizes, weights, where)
    settled = settings_for(weights, sizes, asked)
    model = make_model(settled.config)
    placed = place_tensors(weights, model, form.dropped, where, remedy)
    model.load_state_dict(placed.weights)
    return ForeignModel(model=model, settled=settled, placed=placed, sizes=sizes, notes=notes)
