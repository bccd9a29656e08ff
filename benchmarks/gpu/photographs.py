"""Photographs: how fast they are decoded, whether the step ever waits, and what the loader costs the step."""

from __future__ import annotations

import contextlib
import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from turbomim.benchmarks.gpu.stage import Place, Row, attempt
from turbomim.benchmarks.gpu.steps import task_of
from turbomim.benchmarks.options import BenchTrain
from turbomim.benchmarks.step.forms import Task, turbomim
from turbomim.benchmarks.step.train import measure
from turbomim.pipeline.decoding.dali_package import import_dali
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UserError, to_stderr
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.commands.tune.loader import loader_rate
from turbomim.train.loop.data import open_loader
from turbomim.train.machine.processor import cores
from turbomim.train.machine.tuned_loader import default_speed
from turbomim.train.settings.config import Config
from turbomim.train.world.distributed import World

STORES: Final = {
    "original": ShardSettings(),
    "resized": ShardSettings(store="resized", short_side=224, quality=90, subsampling="4:2:0"),
    "raw": ShardSettings(store="raw", short_side=224),
}
# shares of the JPEGs that the GPU's engines take
LOADS: Final = (0.0, 0.35, 0.65, 0.8, 0.95)
# of the sleeper that tells how long a thread waits for Python's lock, seconds
NAP: Final = 0.001


def rows(place: Place) -> Iterator[Row]:
    """Rates of the loader alone, then with the step."""
    try:
        import_dali()
        splits = {name: shards(place, name, settings) for name, settings in STORES.items()}
    except UserError as error:
        yield {"name": "photographs", "why_not": str(error)}
        return
    for name, split, settings in variants(place, splits):
        yield from attempt(name, functools.partial(loader_alone, place, name, split, settings))
    yield from attempt("end to end", lambda: end_to_end(place, splits["original"]))
    yield from attempt("noisy neighbour", lambda: neighbour(place, splits["original"]))


def shards(place: Place, name: str, settings: ShardSettings) -> Split:
    """Shards of the photographs, made where they are not there yet.  Raises UserError."""
    folder = Path(place.work) / f"shards-{name}"
    if not (folder / "manifest.json").exists():
        source = Path(place.images) if place.images else made_photographs(place)
        make_shards(source, folder, settings, workers=min(8, cores()))
    return open_split(folder)


def made_photographs(place: Place) -> Path:
    """Photographs cut out of those that some packages ship.  Raises UserError without these packages."""
    folder = Path(place.work) / "photographs"
    try:
        from turbomim.train.demo.photos import cut_photos

        cut_photos(folder, images=960 if place.on_gpu else 96)
    except ImportError as error:
        raise UserError(f"{error}: give a folder of photographs with --images") from error
    return folder / "train"


def variants(place: Place, splits: dict[str, Split]) -> Iterator[tuple[str, Split, LoaderSpeed]]:
    """Everything that the loader is measured with; the engines' share matters on a GPU alone."""
    usual = default_speed()
    if place.on_gpu:
        for load in LOADS:
            settings = replace(usual, decode="mixed", hw_decoder_load=load)
            yield f"original, mixed, {load:.0%} by the engines", splits["original"], settings
    yield "original, cpu", splits["original"], replace(usual, decode="cpu")
    yield "resized", splits["resized"], usual
    yield "raw", splits["raw"], usual


def settings_of(place: Place, split: Split) -> tuple[Config, int]:
    """ViT-B at 224 pixels, or a small model, and a batch."""
    config, batch = task_of(place, "vit-base", size=224).config, 256 if place.on_gpu else 4
    optim = replace(config.optim, global_batch=batch, micro_batch=batch)
    data = replace(config.data, path=str(split.folder))
    return replace(config, data=data, optim=optim), batch


def loader_alone(place: Place, name: str, split: Split, speed: LoaderSpeed) -> Iterator[Row]:
    """img/s of batches that nobody uses, and the share of all cores that this process took."""
    config, batch = settings_of(place, split)
    begun, cpu_begun = time.perf_counter(), time.process_time()
    rate = loader_rate(config, split, speed, place.device, start=0, seconds=3.0 if place.on_gpu else 0.3)
    share = (time.process_time() - cpu_begun) / (time.perf_counter() - begun) / cores()
    yield {
        "name": f"loader alone: {name}",
        "value": round(rate, 1),
        "unit": "img/s",
        "cpu_share": round(share, 4),
        "batch": batch,
        "cores": cores(),
    }


def end_to_end(place: Place, split: Split) -> Iterator[Row]:
    """Steps on photographs, and as many on a batch in memory."""
    config, batch = settings_of(place, split)
    world = World(device=torch.device(place.device))
    options = BenchTrain(data=str(split.folder), rounds=2, steps=300 if place.on_gpu else 2)
    rounds, _ = measure(config, batch, options, world)
    for name, seconds in (
        ("in memory", [r.synthetic for r in rounds]),
        ("photographs", [r.real for r in rounds]),
    ):
        images = batch * options.steps
        yield {
            "name": f"{options.steps} steps: {name}",
            "value": round(images / statistics.median(seconds), 1),
            "unit": "img/s",
            "batch": batch,
        }
    yield {
        "name": "end to end",
        "value": round(statistics.median(r.synthetic / r.real for r in rounds), 4),
        "unit": "of the steps in memory",
        "data_wait_pct": round(100 * sum(r.wait for r in rounds) / sum(r.real for r in rounds), 3),
    }


def neighbour(place: Place, split: Split) -> Iterator[Row]:
    """The step on a batch in memory: alone, beside a loader at the step's own rate, and one at full speed."""
    config, batch = settings_of(place, split)
    step = turbomim(Task(config=config, batch=batch, device=place.device))
    turns = 100 if place.on_gpu else 2
    float(step())
    open_one = functools.partial(
        open_loader,
        config,
        split,
        BatchCut(global_batch=batch, micro_batch=batch),
        default_speed(),
        device=place.device,
        notify=to_stderr,
    )
    alone = timed_steps(step, turns)
    yield {"name": "the step alone", **facts(alone, batch, alone)}
    for name, pause in (
        ("beside a loader at its rate", alone["seconds"]),
        ("beside a loader at full speed", 0.0),
    ):
        with open_one() as loader, drawing(loader, pause):
            beside = timed_steps(step, turns)
        yield {"name": f"the step {name}", **facts(beside, batch, alone)}


@contextlib.contextmanager
def drawing(loader: Loader, pause: float) -> Iterator[None]:
    """Take batches in a thread and drop them, one in `pause` seconds.  Raises what the loader does."""
    over = threading.Event()

    def draw() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            next(loader)
            over.wait(max(0.0, pause - (time.perf_counter() - begun)))

    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(draw)
        try:
            yield
        finally:
            over.set()
    # a loader that failed was no neighbour
    drawn.result()


def timed_steps(step: Callable[[], Any], turns: int) -> dict[str, float]:
    """Seconds of a step; the share of all cores; how much later than asked a sleeping thread goes on."""
    late: list[float] = []
    over = threading.Event()

    def sleep() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            time.sleep(NAP)
            late.append(time.perf_counter() - begun - NAP)

    sleeper = threading.Thread(target=sleep, daemon=True)
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    sleeper.start()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    for _ in range(turns):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu_begun
    over.set()
    sleeper.join()
    late.sort()
    return {
        "seconds": seconds / turns,
        "cpu_share": cpu / seconds / cores(),
        "late": late[len(late) * 99 // 100],
    }


def facts(found: dict[str, float], batch: int, alone: dict[str, float]) -> Row:
    """As a row: gil_p99_ms is the sleeper's lateness, of which the wait for Python's lock is most."""
    return {
        "value": round(batch / found["seconds"], 1),
        "unit": "img/s",
        "of_alone": round(alone["seconds"] / found["seconds"], 4),
        "cpu_share": round(found["cpu_share"], 4),
        "gil_p99_ms": round(1000 * found["late"], 3),
    }
