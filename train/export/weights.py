"""Weights as they leave a run: float32, in host memory, in files that hold tensors alone."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from turbomim import __version__
from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.safetensors_file import write_safetensors
from turbomim.train.models.classifier import Classifier, Encoder
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config
from turbomim.train.settings.finetune import FinetuneConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """What is exported: the model of a run after a step."""

    # the run's folder
    run: Path
    config: Config
    model: MAE
    step: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tuned:
    """The same of a fine-tuning, exported with its head; classes: the names of its outputs."""

    run: Path
    config: FinetuneConfig
    model: Classifier
    step: int
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A file or folder that was written and read back by its program."""

    path: Path
    # what loads it, Python on a line where it can be, with PATH for its place
    load: str
    # by what it was checked, and what came out
    checked: str
    # what whoever loads it must know
    note: str = ""
    # Python that uses it, on photo.jpg where it can, with PATH for its place; `load` if empty; `feature` is
    # what `turbomim embed` writes
    code: str = ""
    # `library_name` of its model card
    library: str = ""
    # optimizer steps that the weights are of
    step: int = 0
    # what was written, this and the others with it: names in the folder of the whole export
    files: tuple[str, ...] = ()
    # where it was pushed on the Hugging Face Hub: USER/NAME, the folder in it, and the address
    repository: str = ""
    below: str = ""
    url: str = ""

    @property
    def line(self) -> str:
        """What loads it from where it is, or was pushed, on a line where it can be."""
        return self.placed(self.load, self.path)

    def placed(self, code: str, path: str | Path) -> str:
        """Python that loads it with its place: the repository if it is for one, else a path."""
        if self.repository:
            return loaded_from_hub(code, self.repository, self.below)
        return loaded_from(code, path)


def loaded_from(load: str, path: str | Path) -> str:
    """Python that loads an export, with its place where PATH stands within quotes."""
    return load.replace("PATH", json.dumps(str(path), ensure_ascii=False)[1:-1])


def loaded_from_hub(load: str, repository: str, below: str = "") -> str:
    """Python that loads an export from a repository of the Hugging Face Hub, USER/NAME, or a folder in it."""
    where = f'"{repository}"' + (f', subfolder="{below}"' if below else "")
    return load.replace("local-dir:PATH", f"hf-hub:{repository}").replace('"PATH"', where)


def facts(config: Config) -> dict[str, Any]:
    """What no tensor tells, as the .json of an export has it."""
    return {
        "turbomim": __version__,
        "method": config.model.method,
        "heads": config.model.heads,
        "decoder_heads": config.model.decoder_heads,
    }


def whole_model(model: Encoder) -> dict[str, Tensor]:
    """Every tensor of a model in host memory, numbers as float32, each with a storage of its own."""
    return {
        name: tensor.detach().to(
            "cpu",
            torch.float32 if tensor.is_floating_point() else tensor.dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
        for name, tensor in model.state_dict().items()
    }


def encoder_weights(model: MAE) -> dict[str, Tensor]:
    """Of `whole_model` what is left after pre-training."""
    whole = whole_model(model)
    return {name: tensor for name, tensor in whole.items() if not name.startswith(model.decoder_names)}


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a .safetensors that transformers takes, too.  Raises UserError if the disk does not take it."""
    write_safetensors(path, weights, {"format": "pt", "turbomim": __version__})


def write_torch(tree: Mapping[str, object], path: Path) -> None:
    """Write what torch.load reads with weights_only.  Raises UserError if the disk does not take it."""
    content = io.BytesIO()
    torch.save(dict(tree), content)
    write_durably(path, content.getvalue())
