"""Small models of every method whose weights are nothing but noise, and runs of them that nobody trained."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from turbomim.train.export.weights import Trained
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.machine.versions import versions
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config, DataConfig, RunConfig
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.model import ModelConfig

Model = TypeVar("Model", bound=nn.Module)

STEP, POSITION, FINGERPRINT = 3, 24, "ab12" * 16

_ENCODER: dict[str, Any] = {"patch": 8, "width": 48, "depth": 3, "heads": 4}
_VIT: dict[str, Any] = {**_ENCODER, "decoder_width": 32, "decoder_depth": 2, "decoder_heads": 2}
_SWIN: dict[str, Any] = {
    "patch": 4, "width": 16, "heads": 2, "stages": "2,2", "window": 3, "mask_unit": 2, "norm_pix": False,
}  # fmt: skip
CONFIGS = {
    name: Config(data=DataConfig(size=48), model=ModelConfig(**model))
    for name, model in {
        "mae": _VIT,
        "pixmim": {**_VIT, "target": "gaussian", "radius": 9.0, "norm_pix": False},
        "lsmae": {**_VIT, "mask_unit": 2},
        "mff": {**_VIT, "method": "mff", "fuse": "0,1,2"},
        "simmim": {**_ENCODER, "method": "simmim", "mask_unit": 2, "norm_pix": False},
        "swin": {**_SWIN, "method": "simmim-swin"},
        "swinv2": {**_SWIN, "method": "simmim-swinv2"},
        "convmae": {
            **_VIT, "method": "convmae", "patch": 16, "conv_widths": "8,12", "conv_depths": "1,1",
            "mask_ratio": 0.7,
        },
    }.items()
}  # fmt: skip


def stir(model: Model) -> Model:
    """Leave no tensor at its initial value: without that a swapped norm goes unnoticed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def stirred(config: Config) -> MAE:
    """A model of these settings, stirred."""
    return stir(make_model(config))


def make_run(kind: str, name: str = "r") -> Trained:
    """The folder runs/NAME with one checkpoint of a stirred model, at step 3."""
    config = dataclasses.replace(CONFIGS[kind], run=RunConfig(name=name))
    model, path = stirred(config), rundir.run_folder(config)
    path.mkdir(parents=True)
    state = checkpoint.State(
        step=STEP,
        position=POSITION,
        fingerprint=FINGERPRINT,
        config=to_dict(config),
        versions=versions(),
    )
    snapshot = checkpoint.capture(model, make_optimizer(model, config.optim), state)
    checkpoint.write(path / "ckpt", snapshot, 2)
    rundir.write_settings(path, config, torch.device("cpu"), 1)
    return Trained(run=path, config=config, model=model, step=STEP)


def images() -> Tensor:
    """Two images (B, H, W, C) uint8 of these models' size, always the same."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8, generator=generator)


def pixels(images_BHWC: Tensor) -> Tensor:
    """Images (B, C, H, W) as other programs normalise them."""
    scaled = (images_BHWC.double() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return scaled.float().permute(0, 3, 1, 2)


def snippets(text: str) -> list[str]:
    """The Python in a Markdown text."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
