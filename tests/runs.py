"""Small runs for tests: settings, processes forked after the imports, and what a run left behind.

A launch takes well under a second, and a kill hits only the attempt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from rich.console import Console

from tests import ROOT
from turbomim.kernels.linear import ONEDNN
from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint
from turbomim.train.folder.log import Record, read_metrics
from turbomim.train.machine.cpu_products import CpuProducts, keep_products
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, DataConfig, EvalConfig, RunConfig, StepConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig

SERVER = multiprocessing.get_context("forkserver")
# turbomim imports DALI where it first needs it: a second for each process if not here
SERVER.set_forkserver_preload(["tests.runs", "nvidia.dali"])

# every optim.name
OPTIMIZERS = get_args(get_type_hints(OptimConfig)["name"])


def keep_float32() -> None:
    """Note in the cache folder that runs on this CPU take oneDNN and float32, whatever the processor."""
    keep_products(CpuProducts(blas=100.0, onednn=200.0 * ONEDNN, bfloat16=0.0))


def config_for(data: Path, runs: Path, /, **sections: dict[str, Any]) -> Config:
    """A model of a few thousand weights, 32 px, uncompiled; `sections` lay over it."""
    base: dict[str, Any] = {
        "data": DataConfig(path=str(data), size=32, threads=1, readers=1),
        "model": ModelConfig(
            patch=8, width=32, depth=2, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2,
            target="gaussian", radius=6.0,
        ),
        "optim": OptimConfig(epochs=10, warmup_epochs=1, base_lr=0.05, global_batch=8),
        "step": StepConfig(device="cpu", compile=False),
        "run": RunConfig(folder=str(runs), name="r", log_every=1, save_every=3),
        "eval": EvalConfig(),
    }  # fmt: skip
    return Config(**{name: dataclasses.replace(s, **sections.get(name, {})) for name, s in base.items()})


def quiet() -> Console:
    """Where nobody looks."""
    return Console(file=io.StringIO(), width=200)


def attempt(config: Config) -> None:
    """One process of one attempt; a user's error is exit code 1, and its words are in said-RANK."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        pretrain(config, console=quiet())
    except UserError as error:
        Path(config.run.folder, f"said-{os.environ.get('RANK', 0)}").write_text(str(error))
        os._exit(1)


@functools.cache
def start_server() -> None:
    """Start the process that has imported this file, from which the others are forked."""
    with pytest.MonkeyPatch.context() as patch:
        # Python before 3.12.8 gives it no sys.path, and it passes over what it cannot import
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        # a process that dies of a signal says where
        patch.setenv("PYTHONFAULTHANDLER", "1")
        forkserver.ensure_running()


def launch(target: Callable[..., None], *args: object) -> BaseProcess:
    """Start `target(*args)` in a process of its own."""
    start_server()
    process = SERVER.Process(target=target, args=args)
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 120) -> int | None:
    """The exit code of a process; minus the signal, if one ended it."""
    process.join(seconds)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


@contextlib.contextmanager
def killed_at_the_end(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """A process that is stopped ends by nothing else, and pytest waits for it."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def outcome(folder: Path) -> tuple[dict[str, bytes], list[tuple[int, str]]]:
    """Bytes of the last checkpoint's tensors, and (step, loss as hex) of every log line that has one."""
    last = folder / "ckpt" / (folder / "ckpt" / "latest").read_text().strip()
    files = {name: (last / name).read_bytes() for name in checkpoint.FILES[:2]}
    return files, [(r["step"], r["loss"].hex()) for r in records(folder) if r["loss"] is not None]


def free_port() -> int:
    """A port that nobody listens on, and below those that Linux gives to clients: nobody has it meanwhile."""
    while True:
        port = random.SystemRandom().randrange(1024, 10_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("", port))
            return port


def as_rank(rank: int, world: int, port: int) -> None:
    """Make this process one of `world` ranks on this machine."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def ranked(config: Config, rank: int, world: int, port: int) -> None:
    """`attempt` as one of several ranks."""
    as_rank(rank, world, port)
    attempt(config)


def launch_ranks(target: Callable[..., None], world: int, *args: object) -> list[BaseProcess]:
    """`target(*args, rank, world, port)` on every rank."""
    port = free_port()
    return [launch(target, *args, rank, world, port) for rank in range(world)]


def run(config: Config, world: int = 1) -> None:
    """Run to the end in `world` processes."""
    processes = launch_ranks(ranked, world, config) if world > 1 else [launch(attempt, config)]
    assert [finish(process) for process in processes] == [0] * world


def records(folder: Path) -> list[Record]:
    """The log records of a run folder."""
    return read_metrics(folder / "metrics.jsonl")


def losses(folder: Path) -> list[float]:
    """The loss of each of them."""
    return [record["loss"] for record in records(folder)]


def status(folder: Path) -> dict[str, Any]:
    """The status.json of a run folder."""
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


def wait_for(true: Callable[[], bool], process: BaseProcess, seconds: float = 60) -> None:
    """Return when it is true; fail if the process ends before."""
    deadline = time.monotonic() + seconds
    while not true():
        assert process.is_alive() and time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.002)
