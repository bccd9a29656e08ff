"""Does a killed `pretrain` end with the same bits?

    python -m turbomim.benchmarks.faults.kill_pretrain --kills 200

A small run (ViT of width 64 and depth 2, 32 pixels, float32, one thread) is killed (SIGKILL) at a random
moment, or inside a load, a step, a save, a sync or a rename, and started again until it is through.  Then
the loss of every step, as hexadecimal, and the sha256 of weights and optimizer must be those of a run that
nobody disturbed. Attempts are forked from a process that has imported everything, so that one starts in a
fraction of a second.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from turbomim.benchmarks.faults.kill_shard_make import draw_photographs, ended_within, fork
from turbomim.benchmarks.timing import machine
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.sha256 import file_sha256
from turbomim.train.folder import checkpoint
from turbomim.train.folder.log import read_metrics
from turbomim.train.loop.step import Step
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, DataConfig, RunConfig, StepConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig

# what an attempt is killed inside of: where the function is, and its calls in one attempt, roughly
PLACES: dict[str, tuple[Any, str, int]] = {
    "load": (checkpoint, "_read_tensors", 2),
    "batch": (Loader, "__next__", 60),
    "step": (Step, "__call__", 60),
    "save": (checkpoint, "save_tensors", 16),
    "sync": (os, "fsync", 60),
    "rename": (os, "rename", 8),
    "replace": (os, "replace", 12),
    "remove": (shutil, "rmtree", 6),
}
# seconds between the call that is aimed at and the kill, at most
DELAY = 0.004
# kills of one run, drawn
KILLS = (1, 1, 1, 2, 3)

Curve = list[tuple[int, str]]


@dataclass(kw_only=True)
class Tally:
    """What happened.  resumed: kills that left a checkpoint to go on from; curves: of each run."""

    kills: int = 0
    runs: int = 0
    different: int = 0
    resumed: int = 0
    places: Counter[str] = field(default_factory=Counter)
    # of every kill, the last step that was logged
    steps: list[int] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


def settings(data: Path, folder: Path, ema: float = 0.0) -> Config:
    """The run: batch 16, a log line a step, a checkpoint every 7; ema: decay of an average of its weights."""
    return Config(
        data=DataConfig(path=str(data), size=32, threads=1, readers=1),
        model=ModelConfig(
            patch=8, width=64, depth=2, heads=4, decoder_width=32, decoder_depth=1, decoder_heads=2,
            target="gaussian", radius=6.0,
        ),
        optim=OptimConfig(epochs=1.1, warmup_epochs=0.1, base_lr=0.02, global_batch=16, ema=ema),
        step=StepConfig(device="cpu", compile=False),
        run=RunConfig(folder=str(folder), name="run", log_every=1, save_every=7),
    )  # fmt: skip


def attempt(config: Config) -> None:
    """Train in this process, quietly and with one thread."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    pretrain(config, console=Console(file=io.StringIO(), width=200))


def arm(place: str, call: int, delay_s: float) -> None:
    """Let this process be killed `delay_s` after it enters that call of a place."""
    owner, name, _ = PLACES[place]
    real, calls = getattr(owner, name), 0

    def counted(*args: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return real(*args, **given)

    setattr(owner, name, counted)


def result(folder: Path) -> tuple[Curve, dict[str, str]]:
    """Step and loss, as hexadecimal, of every log line; position and sha256s of the last checkpoint."""
    found, damaged = checkpoint.newest(folder / "ckpt")
    assert found is not None and not damaged, f"{folder} has no whole checkpoint at its end"
    records = read_metrics(folder / "metrics.jsonl")
    curve = [(record["step"], float(record["loss"]).hex()) for record in records]
    digests = {name: file_sha256(found / name) for name in checkpoint.FILES[:2]}
    return curve, {"position": str(checkpoint.read_state(found).position), **digests}


def killed_once(config: Config, folder: Path, rng: random.Random, duration_s: float, tally: Tally) -> bool:
    """One attempt that is to be killed; whether it was."""
    place = "moment" if rng.random() < 0.5 else rng.choice(list(PLACES))
    limit = rng.uniform(0, duration_s) if place == "moment" else None
    call, delay_s = rng.randint(1, PLACES.get(place, (0, 0, 1))[2]), rng.uniform(0, DELAY)

    def armed() -> None:
        if place != "moment":
            arm(place, call, delay_s)
        attempt(config)

    if ended_within(fork(armed), limit):
        return False
    tally.kills += 1
    tally.resumed += any((folder / "ckpt").glob("step-*/COMPLETE"))
    tally.places[place] += 1
    lines = read_metrics(folder / "metrics.jsonl")
    tally.steps.append(lines[-1]["step"] if lines else 0)
    return True


def kill_runs(data: Path, work: Path, kills: int, seed: int, ema: float = 0.0) -> tuple[Tally, Curve]:
    """Kill runs until `kills` kills have hit; the tally, and the curve of the undisturbed run."""
    rng = random.Random(seed)
    begun = time.monotonic()
    ended_within(fork(lambda: attempt(settings(data, work / "undisturbed", ema))), None)
    duration_s = time.monotonic() - begun
    expected = result(work / "undisturbed" / "run")
    tally = Tally()
    while tally.kills < kills:
        config = settings(data, work / f"{tally.runs}", ema)
        folder = work / f"{tally.runs}" / "run"
        for _ in range(min(rng.choice(KILLS), kills - tally.kills)):
            if not killed_once(config, folder, rng, duration_s, tally):
                # it came to its end first
                break
        ended_within(fork(partial(attempt, config)), None)
        found = result(folder)
        tally.runs += 1
        tally.different += found != expected
        tally.curves.append(found[0])
        shutil.rmtree(folder.parent)
    return tally, expected[0]


def plot(tally: Tally, undisturbed: Curve, path: Path) -> None:
    """The undisturbed curve, the killed runs' on top of it, and where kills hit.  Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    losses, hits = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    steps, values = zip(*undisturbed, strict=True)
    losses.plot(steps, [float.fromhex(v) for v in values], color="tab:orange", linewidth=6, alpha=0.5)
    for curve in tally.curves:
        steps, values = zip(*curve, strict=True)
        losses.plot(steps, [float.fromhex(v) for v in values], color="black", linewidth=0.6)
    losses.set_title(
        f"{tally.kills} kills (SIGKILL) over {tally.runs} runs: {tally.different} of {tally.runs} differ, "
        "bit for bit",
        fontsize=10,
    )
    losses.legend(["undisturbed", f"the {tally.runs} killed and resumed, on top of it"], fontsize=8)
    losses.set_ylabel("loss")
    hits.hist(tally.steps, bins=range(0, max(steps) + 2), color="tab:red")
    hits.set(ylabel="kills", xlabel="step")
    for axis in (losses, hits):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def make_data(folder: Path, count: int) -> Path:
    """Small JPEGs of noise in seven shards, the last one smaller."""
    shards = folder / "shards"
    photographs = draw_photographs(folder / "photographs", count)
    make_shards(photographs, shards, ShardSettings(shard_size=-(-count * 10 // 66)))
    return shards


def main() -> None:
    """Kill, compare, print one JSON line, plot; exit 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--images", type=int, default=800, help="photographs to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ema", type=float, default=0.0, help="decay of an average of the weights")
    parser.add_argument("--plot", type=Path, help="picture to write")
    options = parser.parse_args()
    # threads of this process would not live on in the forked ones
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder), options.images)
        tally, undisturbed = kill_runs(data, Path(folder), options.kills, options.seed, options.ema)
    facts = {
        "kills": tally.kills,
        "runs": tally.runs,
        "different": tally.different,
        "resumed": tally.resumed,
        "steps": len(undisturbed),
        "places": dict(sorted(tally.places.items())),
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(json.dumps({"name": "kill_pretrain", **facts, **machine()}))
    if options.plot:
        plot(tally, undisturbed, options.plot)
    if tally.different:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
