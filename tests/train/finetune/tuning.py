"""Fine-tunings of a tiny model on pictures of three colours, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.runs import as_rank, quiet

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.train.encoder.source import load_source
from turbomim.train.finetune.asked import FinetuneAsked
from turbomim.train.finetune.finetune import finetune
from turbomim.train.finetune.settings import finetune_settings
from turbomim.train.settings.finetune import FinetuneConfig

COLOURS = {"blue": (40, 60, 190), "green": (50, 170, 60), "red": (180, 50, 40)}


def coloured(folder: Path, each: int, seed: int) -> Path:
    """A split of noisy pictures of three colours, a class each."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(np.array(colour) + random.normal(0, 40, (40, 44, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number:02d}.png")
    make_shards(folder / "photos", folder / "shards", ShardSettings(split=folder.name, shard_size=13))
    return folder / "shards"


# 48 samples: 3 steps of 16 an epoch; a tiny model's head begins large enough to learn in seconds
FLAGS: dict[str, dict[str, Any]] = {
    "optim": {"base_lr": 0.05},
    "finetune": {"head_std": 0.02, "layer_decay": 0.9},
    "run": {"log_every": 1, "save_every": 2},
    "step": {"device": "cpu", "compile": False},
}


def settings(
    pretrained: Path, shards: dict[str, Path], folder: Path, epochs: float = 4, **flags: dict[str, Any]
) -> FinetuneConfig:
    """Three steps an epoch, in a folder of its own."""
    asked = FinetuneAsked(train=str(shards["train"]), test=str(shards["test"]), epochs=epochs, batch=16)
    laid = {name: {**FLAGS.get(name, {}), **flags.get(name, {})} for name in {*FLAGS, *flags}}
    laid["run"]["folder"] = str(folder)
    return finetune_settings(asked, load_source(pretrained, {}), laid)


def attempt(config: FinetuneConfig, pretrained: Path) -> None:
    """One process of one attempt."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    finetune(config, load_source(pretrained, {}), console=quiet())


def ranked(config: FinetuneConfig, pretrained: Path, rank: int, world: int, port: int) -> None:
    as_rank(rank, world, port)
    attempt(config, pretrained)
