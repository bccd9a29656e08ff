"""Fine-tunings of small models of every method that nobody trained: their weights are nothing but noise."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.exported import CONFIGS, FINGERPRINT, POSITION, STEP, stir
from turbomim.train.finetune.layer_decay import layered_optimizer
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.folder.class_names import write_class_names
from turbomim.train.machine.versions import versions
from turbomim.train.models.classifier import Classifier
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import RunConfig
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.finetune import FinetuneConfig, FinetuneSettings
from turbomim.train.settings.optim import OptimConfig

# one is no ASCII, and one needs quotes in a CSV file
NAMES = ("ash", "Björk, white", "cedar")


def tuned_config(kind: str, folder: Path, classes: int = len(NAMES)) -> FinetuneConfig:
    """The settings of the fine-tuning FOLDER/tuned of a small model."""
    base = CONFIGS[kind]
    return FinetuneConfig(
        data=base.data,
        model=base.model,
        optim=OptimConfig(global_batch=8),
        run=RunConfig(name="tuned", folder=str(folder)),
        finetune=FinetuneSettings(classes=classes, drop_path=0.2, test_crop=0.75, weights="none"),
    )


def stirred_classifier(config: FinetuneConfig) -> Classifier:
    """A classifier none of whose tensors is at its initial value."""
    return stir(Classifier(make_model(config), config)).eval()


def make_finetuning(kind: str, folder: Path) -> tuple[Path, FinetuneConfig, Classifier]:
    """The folder FOLDER/tuned with one checkpoint of a stirred classifier, at step 3."""
    config = tuned_config(kind, folder)
    model, path = stirred_classifier(config), rundir.run_folder(config)
    path.mkdir(parents=True)
    state = checkpoint.State(
        step=STEP, position=POSITION, fingerprint=FINGERPRINT, config=to_dict(config), versions=versions()
    )
    checkpoint.write(path / "ckpt", checkpoint.capture(model, layered_optimizer(model, config), state), 2)
    rundir.write_settings(path, config, torch.device("cpu"), 1)
    write_class_names(path, NAMES)
    return path, config, model
