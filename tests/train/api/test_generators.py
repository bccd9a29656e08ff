"""A call leaves torch's global generator as it was: the caller's dropout and augmentation go on as before.

Planted, each seen to fail: a model, a classifier, timm's model that is made without a generator of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.exported import make_run
from tests.finetuned import make_finetuning
from tests.runs import quiet

import turbomim

pytestmark = pytest.mark.usefixtures("here")

SMALL: dict[str, Any] = {"step.compile": False, "finetune.rand_augment": "", "data.size": 32}
TINY: dict[str, Any] = {
    "data.size": 32, "model.patch": 8, "model.width": 32, "model.depth": 1, "model.heads": 2,
    "model.decoder_width": 16, "model.decoder_depth": 1, "model.decoder_heads": 2, "optim.epochs": 1,
    "optim.warmup_epochs": 0, "optim.global_batch": 8, "step.compile": False, "step.device": "cpu",
}  # fmt: skip


def test_no_call_draws_from_the_callers_generator(trees: Path, photo_folder: Path) -> None:
    run = make_run("mae").run
    tuned, _, _ = make_finetuning("mae", run / "eval")
    (exported,) = turbomim.export(run, "timm")
    both: dict[str, Any] = {"train": trees, "test": trees, "console": quiet(), "notify": str}
    calls: dict[str, Callable[[], object]] = {
        "load": lambda: turbomim.load(run),
        "load of a fine-tuning": lambda: turbomim.load(tuned),
        "load of an export": lambda: turbomim.load(exported.path),
        "embed": lambda: turbomim.embed(run, photo_folder, console=quiet()),
        "predict": lambda: turbomim.predict(tuned, photo_folder, console=quiet()),
        "knn": lambda: turbomim.evaluate(run, "knn", **both),
        "finetune": lambda: turbomim.evaluate(run, "finetune", epochs=1, batch=8, **both, **SMALL),
        "export to timm": lambda: turbomim.export(tuned, "timm"),
        "export to hf": lambda: turbomim.export(run, "hf"),
        "pretrain": lambda: turbomim.pretrain("demo", data=trees, name="mine", console=quiet(), **TINY),
        "show": lambda: turbomim.Run("runs/mine").show(),
    }
    drawn = []
    for name, call in calls.items():
        before = torch.get_rng_state()
        call()
        drawn += [] if torch.equal(torch.get_rng_state(), before) else [name]
    assert not drawn
