"""The pre-trained encoder as a file that timm loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file

from turbomim import __version__
from turbomim.pipeline.errors import UserError
from turbomim.train.config import IMAGENET_MEAN, IMAGENET_STD, Config
from turbomim.train.models.mae import MAE

# any plain timm ViT name will do: the keyword arguments below replace its sizes
TIMM_NAME = "vit_base_patch16_224"


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
    """Write encoder.safetensors (timm's names, float32) and encoder.json, and load it back with timm.

    Raises UserError if timm does not take every tensor.
    """
    weights = {
        name: tensor.detach().cpu().float().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(model.decoder_names)
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "encoder.safetensors"
    temporary = folder / ".tmp-encoder.safetensors"
    save_file(weights, temporary, metadata={"format": "pt", "turbomim": __version__})
    temporary.replace(path)
    card = {
        "load": create_call(config, path),
        "timm": {"name": TIMM_NAME, **timm_arguments(config)},
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "turbomim": __version__,
    }
    (folder / "encoder.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    check(path, config)
    return path


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
