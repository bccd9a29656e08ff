"""A disk that is full at a checkpoint or a log line, memory that is out: one line says it, nothing is lost.

Planted bugs and the test that fails on each: a saver whose error nobody asks for before the next checkpoint
fails `test_a_full_disk_at_a_checkpoint`; the system's own words left as they are, with no file, fail
`test_a_full_disk_at_a_log_line`.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import attempt, config_for, finish, launch, outcome, quiet, records, run, status
from torch._subclasses.fake_tensor import FakeTensor

from turbomim.pipeline.decoding.failures import out_of_memory
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint
from turbomim.train.loop.out_of_memory import flags_to_try, memory_in_words
from turbomim.train.loop.step import Step
from turbomim.train.models.mae import MAE
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config
from turbomim.train.settings.plan import make_plan
from turbomim.train.world.distributed import World


def limited(config: Config, most: int) -> None:
    """An attempt that from its fifth step on makes no file longer than `most` bytes; 0: than its metrics."""
    real, calls = Step.__call__, 0
    write, failed = checkpoint.write, threading.Event()
    folder = Path(config.run.folder, "r")

    def watched(*args: Any) -> Path:
        try:
            return write(*args)
        except UserError:
            failed.set()
            raise

    def step(self: Step, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            while not checkpoint.complete(folder / "ckpt"):
                time.sleep(0.01)
            allowed = most or os.path.getsize(folder / "metrics.jsonl") + 10
            resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, resource.RLIM_INFINITY))
        # of a write beside the steps
        assert calls < 9 or failed.wait(60)
        return real(self, *args)

    setattr(checkpoint, "write", watched)  # noqa: B010
    setattr(Step, "__call__", step)  # noqa: B010
    attempt(config)


@pytest.mark.parametrize("background", [True, False], ids=["beside the steps", "in between"])
def test_a_full_disk_at_a_checkpoint(trees: Path, tmp_path: Path, background: bool) -> None:
    settings = {"run": {"save_every": 4, "save_in_background": background}, "optim": {"epochs": 4}}
    config = config_for(trees, tmp_path, **settings)
    folder = tmp_path / "r"
    assert finish(launch(limited, config, 50_000)) == 1
    said = (tmp_path / "said-0").read_text()
    assert "cannot write checkpoint" in said and "step-00000008" in said and "B are free" in said
    assert "earlier checkpoints are intact" in said and "\n" not in said
    assert status(folder)["status"] == "failed"
    # beside the steps it is heard of at one of the next boundaries, long before the next checkpoint
    assert 8 <= records(folder)[-1]["step"] <= (11 if background else 8)
    assert [path.name for path in checkpoint.complete(folder / "ckpt")] == ["step-00000004"]
    run(config)
    run(config_for(trees, tmp_path / "whole", **settings))
    assert outcome(folder) == outcome(tmp_path / "whole" / "r")


def test_a_full_disk_at_a_log_line(trees: Path, tmp_path: Path) -> None:
    run_settings = {"save_every": 4, "save_in_background": False}
    config = config_for(trees, tmp_path, run=run_settings, optim={"epochs": 4})
    folder = tmp_path / "r"
    assert finish(launch(limited, config, 0)) == 1
    said = (tmp_path / "said-0").read_text()
    assert "cannot be written" in said and "File too large" in said and "bytes are free" in said, said
    assert status(folder)["status"] == "failed"
    assert [path.name for path in checkpoint.complete(folder / "ckpt")] == ["step-00000004"]
    run(config)
    run(config_for(trees, tmp_path / "whole", run={"save_every": 4}, optim={"epochs": 4}))
    assert outcome(folder) == outcome(tmp_path / "whole" / "r")


def test_out_of_memory_names_batch_memory_and_three_flags(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's error from 4 images on; the host's below that."""

    real = MAE.forward

    def refuse(self: MAE, images: torch.Tensor, *others: Any) -> Any:
        if isinstance(images, FakeTensor):
            # the memory of a step is predicted before it
            return real(self, images, *others)
        if len(images) >= 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.empty(2**60)

    monkeypatch.setattr(MAE, "forward", refuse)
    for micro, words in ((4, "Tried to allocate 2.00 GiB"), (2, "can't allocate memory")):
        config = config_for(trees, tmp_path, optim={"micro_batch": micro}, run={"name": f"m{micro}"})
        with pytest.raises(
            UserError, match=f"rank 0 ran out of memory with a micro-batch of {micro} images"
        ) as error:
            pretrain(config, console=quiet())
        text = str(error.value)
        assert words in text and "32 pixels" in text and "\n" not in text
        assert "the host's limit is" in text and "GiB" in text
        tries = text.split("; try ")[1].split(", ")
        assert tries[0] == f"--optim.micro_batch {micro // 2}" and len(tries) == 3
        assert tries[1] == "--step.recompute true" and all(flag.startswith("--") for flag in tries)


def test_a_limit_of_the_host_is_an_explained_error(trees: Path, tmp_path: Path) -> None:
    """A process that may take little more than it has: torch's own words for it are recognised."""
    assert finish(launch(short_of_memory, config_for(trees, tmp_path, optim={"epochs": 1}))) == 1
    said = (tmp_path / "said-0").read_text()
    assert "ran out of memory" in said and "(ulimit -v)" in said, said


def short_of_memory(config: Config) -> None:
    """An attempt whose model asks for 1 GiB where 64 MiB are left; with far less, oneDNN dies of a signal."""

    def forward(self: MAE, *_: Any) -> Any:
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 2**26, resource.RLIM_INFINITY))
        return torch.empty(2**28)

    setattr(MAE, "forward", forward)  # noqa: B010
    attempt(config)


def test_flags_to_try_are_not_set_yet(trees: Path, tmp_path: Path) -> None:
    config = config_for(trees, tmp_path, optim={"micro_batch": 1}, step={"recompute": True})
    settings = LoaderSpeed(threads=4, prefetch=4)
    one, two = (World(rank=0, size=n, device=torch.device("cpu")) for n in (1, 2))
    assert flags_to_try(config, make_plan(config, 33, 1), settings, one) == [
        "--data.prefetch 2", "--data.threads 2", "--run.save_in_background false",
    ]  # fmt: skip
    assert flags_to_try(config, make_plan(config, 33, 2), settings, two)[0] == "--step.shard true"
    gpu = World(device=torch.device("cuda", 0))
    assert "--data.decode cpu" in flags_to_try(config, make_plan(config, 33, 1), settings, gpu)
    assert not out_of_memory(RuntimeError("shapes do not fit")) and out_of_memory(MemoryError())
    assert "GiB" in memory_in_words(torch.device("cpu"))
