"""Weights by the names they have here, or had where the method was published: no other model is built.

safetensors: the encoder of any method; mae, mmselfsup: encoder and decoder as those programs name them.
"""

from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UserError
from turbomim.train.export.check import same_features
from turbomim.train.export.timm import TIMM_NAMES
from turbomim.train.export.weights import (
    Exported,
    encoder_weights,
    facts,
    whole_model,
    write_torch,
    write_weights,
)
from turbomim.train.foreign.file import read_tensors
from turbomim.train.foreign.formats import FORMATS, MMSELFSUP
from turbomim.train.foreign.names import Names
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import Config

# by program: where its file has the weights, and how it names them
WHOLE: Final[dict[str, tuple[str, Names]]] = {
    "mae": ("model", Names()),
    "mmselfsup": ("state_dict", MMSELFSUP),
}


def write_own(model: MAE, config: Config, folder: Path) -> list[Exported]:
    """Write model.safetensors by the names here, read it back into a new model, compare features."""
    path = folder / "model.safetensors"
    write_weights(path, encoder_weights(model))
    write_json(folder / "config.json", facts(config))
    again = make_model(config, initial=False)
    with torch.no_grad():
        for name, tensor in again.named_parameters():
            if not name.startswith(again.decoder_names):
                tensor.zero_()
    again.load_state_dict({**again.state_dict(), **load_file(path)})
    method = config.model.method
    load = 'safetensors.torch.load_file("PATH")'
    known = "--to timm writes it for timm" if method in TIMM_NAMES else "timm has no such model"
    return [
        Exported(
            path=path,
            load=load,
            code=f"import safetensors.torch\n\n{load}",
            checked=same_features(model, config, again.features, "read back"),
            note=(
                f"The encoder of {method} by the names that turbomim's train/models has: {known}. "
                "`turbomim embed` and `turbomim eval` take the run itself."
            ),
        )
    ]


def write_whole(to: str, model: MAE, config: Config, folder: Path) -> list[Exported]:
    """Write encoder and decoder as `mae` or `mmselfsup` names them, tensors alone, and read them back.

    Raises UserError if they do not come back bit for bit.
    """
    path, weights = folder / f"{to}.pth", whole_model(model)
    write_json(folder / f"{to}.json", facts(config))
    wrapper, names = WHOLE[to]
    write_torch({wrapper: names.to_theirs(weights)}, path)
    again = FORMATS[to].ours(read_tensors(path)[0])
    if again.keys() != weights.keys() or any(not torch.equal(again[n], t) for n, t in weights.items()):
        raise UserError(f"{path} does not come back as it was written: check the disk, and export again")
    load = f'torch.load("PATH", weights_only=True)["{wrapper}"]'
    return [
        Exported(
            path=path,
            load=load,
            code=f"import torch\n\n{load}",
            checked=f"read back: all {len(again)} tensors bit for bit",
            note=f"Encoder and decoder, by {to}'s names.",
        )
    ]
