"""Pictures of three colours, and a tiny model to tune on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runs import config_for, quiet
from tests.train.finetune.tuning import coloured

from turbomim.pipeline.tars.split import Split
from turbomim.train.pretrain.pretrain import pretrain


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train shards of 48 pictures, test shards of 15."""
    folder = tmp_path_factory.mktemp("colours")
    return {"train": coloured(folder / "train", 16, 0), "test": coloured(folder / "test", 5, 1)}


@pytest.fixture(scope="module")
def pretrained(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of a tiny model."""
    config = config_for(tiny_split.folder, tmp_path_factory.mktemp("runs"), optim={"epochs": 1})
    return pretrain(config, console=quiet()).folder
