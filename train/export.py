"""A run's weights as files of other programs: the encoder for timm, the whole model for MAE and mmselfsup."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from turbomim import __version__
from turbomim.pipeline.durable import write_durably
from turbomim.pipeline.errors import UserError
from turbomim.train.config import IMAGENET_MEAN, IMAGENET_STD, Config
from turbomim.train.foreign import to_mmselfsup
from turbomim.train.models.mae import MAE

# any plain timm ViT name will do: the keyword arguments below replace its sizes
TIMM_NAME = "vit_base_patch16_224"
# methods that a program has a model of
METHODS_OF = {"timm": ("mae", "mff"), "mae": ("mae",), "mmselfsup": ("mae", "mff")}
# where a program's file has its weights
WRAPPERS = {"mae": "model", "mmselfsup": "state_dict"}


def timm_arguments(config: Config) -> dict[str, Any]:
    """Keyword arguments for timm.create_model(TIMM_NAME, …) that build this run's encoder."""
    model = config.model
    return {
        "img_size": config.data.size,
        "patch_size": model.patch,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "num_classes": 0,
    }


def create_call(config: Config, path: Path) -> str:
    """The Python expression that loads an export."""
    arguments = ", ".join(f"{k}={v}" for k, v in timm_arguments(config).items())
    return f"timm.create_model({TIMM_NAME!r}, {arguments}, checkpoint_path={str(path.resolve())!r})"


def export_encoder(model: MAE, config: Config, folder: Path) -> Path:
    """Write encoder.safetensors and encoder.json into a folder, as `write_encoder` does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "encoder.safetensors"
    write_encoder(model, config, path)
    return path


def write_encoder(model: MAE, config: Config, path: Path) -> None:
    """Write the encoder in float32, with a .json beside it, and load it back with timm.

    A method whose encoder is no plain ViT has its own published names, and timm is not asked.
    Raises UserError if timm does not take every tensor.
    """
    weights = {
        name: tensor
        for name, tensor in whole_model(model).items()
        if not name.startswith(model.decoder_names)
    }
    temporary = path.with_name(f".tmp-{path.name}")
    save_file(weights, temporary, metadata={"format": "pt", "turbomim": __version__})
    temporary.replace(path)
    plain = config.model.method in METHODS_OF["timm"]
    card = {
        "load": create_call(config, path) if plain else None,
        "timm": {"name": TIMM_NAME, **timm_arguments(config)} if plain else None,
        "method": config.model.method,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "turbomim": __version__,
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    if plain:
        check(path, config)


def write_full(model: MAE, to: str, path: Path) -> int:
    """Write encoder and decoder as `mae` or `mmselfsup` names them, tensors alone; returns how many."""
    weights = whole_model(model)
    content = io.BytesIO()
    torch.save({WRAPPERS[to]: weights if to == "mae" else to_mmselfsup(weights)}, content)
    write_durably(path, content.getvalue())
    return len(weights)


def whole_model(model: MAE) -> dict[str, Tensor]:
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


def check_method(config: Config, to: str) -> None:
    """Raise UserError if a run's method is none that a program has, or that is known to it by these names."""
    method = config.model.method
    if method not in METHODS_OF[to]:
        fitting = " and ".join(f"--to {name}" for name, methods in METHODS_OF.items() if method in methods)
        raise UserError(
            f"a run of method {method} has no --to {to}, {f'but {fitting}' if fitting else 'nor any other'}; "
            "its weights by their names here are in RUN/ckpt/STEP/model.safetensors"
        )


def check(path: Path, config: Config) -> torch.nn.Module:
    """Load an export into timm's own model, every key matched, and return that model."""
    encoder: torch.nn.Module = timm.create_model(TIMM_NAME, pretrained=False, **timm_arguments(config))
    try:
        encoder.load_state_dict(load_file(path), strict=True)
    except RuntimeError as error:
        raise UserError(
            f"{path}: timm {timm.__version__} does not take it: {' '.join(str(error).split())[:300]}"
        ) from error
    return encoder
