"""A run that has everything a report can show, and one with the files that every run has."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.pipeline.test_bad_samples import damage
from tests.runs import config_for, quiet

from turbomim.pipeline.tars.manifest import BAD, MANIFEST
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.commands.eval.knn import eval_knn_command
from turbomim.train.folder import rundir
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.recipes.table import recipe

RECORDS: list[dict[str, Any]] = [
    {"step": 10, "steps": 30, "position": 80, "epoch": 1.0, "loss": 1.5, "lr": 1e-3, "img_per_s": 5.0,
     "data_wait_pct": 90.0, "step_ms": 1600.0, "window": 10, "first": True, "memory_gib": 1.0},
    {"step": 20, "steps": 30, "position": 160, "epoch": 2.0, "loss": 0.9, "lr": 5e-4, "img_per_s": 80.0,
     "data_wait_pct": 2.0, "step_ms": 100.0, "window": 10, "first": False, "memory_gib": 2.5,
     "heldout_loss": 0.95, "mfu": None},
    {"step": 30, "steps": 30, "position": 240, "epoch": 3.0, "loss": 0.8, "lr": 0.0, "img_per_s": 40.0,
     "data_wait_pct": 5.0, "step_ms": 200.0, "window": 10, "first": False, "memory_gib": 2.0,
     "replaced_total": 4},
]  # fmt: skip


@pytest.fixture(scope="module")
def full(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has everything: MFF, held-out data, pictures, scores, an analysis, bad photographs."""
    folder = tmp_path_factory.mktemp("full")
    shutil.copytree(tiny_split.folder, folder / "split")
    split = open_split(folder / "split")
    damage(split, 6, "cut")
    (folder / "split" / BAD).write_text('{"path": "b/broken.jpg", "reason": "not an image"}\n')
    os.utime(folder / "split" / MANIFEST)
    config = config_for(
        folder / "split", folder / "runs",
        data={"heldout": str(tiny_split.folder), "max_bad_share": 1.0},
        model={"method": "mff", "fuse": "0,1"}, optim={"epochs": 3},
        run={"eval_every": 4, "picture_every": 6},
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = pretrain(config, console=quiet()).folder
    torch.set_num_threads(threads)
    (run / "analysis").mkdir()
    shards = str(tiny_split.folder)
    eval_knn_command([str(run), "--train", shards, "--test", shards])
    analysis = {
        "analysis": "frequency",
        "run": str(run),
        "settings": {"images": 7},
        "results": {"low": [1, 2]},
    }
    (run / "analysis" / "frequency.json").write_text(json.dumps(analysis))
    Image.new("RGB", (40, 30), "red").save(run / "analysis" / "frequency.png")
    return run


@pytest.fixture
def bare(tiny_split: Split, tmp_path: Path) -> Path:
    """A run folder of the demo's recipe at another rate, as its files would be; nothing was trained."""
    config = recipe("demo")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, path=str(tiny_split.folder)),
        optim=dataclasses.replace(config.optim, base_lr=4e-3),
        run=dataclasses.replace(config.run, folder=str(tmp_path), name="bare"),
    )
    run = tmp_path / "bare"
    run.mkdir()
    rundir.write_settings(run, config, torch.device("cpu"), 1)
    env = json.loads((run / "env.json").read_text())
    (run / "env.json").write_text(
        json.dumps({**env, "command": ["turbomim", "pretrain", "demo", "--x", "1"]})
    )
    rundir.set_status(run, "done", 30, 240)
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in RECORDS))
    (run / "train.log").write_text("2026-01-02 03:04:05  begun\n2026-01-02 03:05:06  step 30/30\n")
    return run
