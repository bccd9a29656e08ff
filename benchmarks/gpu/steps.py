"""The training step at the micro-batch of the presets, beside a textbook's and Hugging Face's."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import torch

from turbomim.benchmarks.gpu.stage import Place, Row, attempt
from turbomim.benchmarks.options import BenchStep
from turbomim.benchmarks.step.bench import REFERENCE, compare, configure, json_lines
from turbomim.benchmarks.step.forms import Task
from turbomim.train.machine.memory import device_bytes
from turbomim.train.machine.predicted_memory import predicted_bytes
from turbomim.train.machine.presets import MOST, SHARE
from turbomim.train.settings.config import Config
from turbomim.train.settings.precision import uses_bfloat16

OURS: Final = "turbomim"
# model of `bench step`, and the forms that are timed together, what matters most first
PLANS: Final[dict[str, tuple[str, tuple[tuple[str, ...], ...]]]] = {
    "base": (
        "vit-base",
        (
            (REFERENCE, OURS, "Hugging Face"),
            (REFERENCE, "textbook compiled", OURS, "turbomim with PixMIM"),
        ),
    ),
    "large": ("vit-large", ((REFERENCE, OURS), (REFERENCE, "Hugging Face"))),
    "huge": ("vit-huge", ((REFERENCE, OURS),)),
    "modes": ("vit-base", ((OURS, "turbomim with CUDA graphs"), (OURS, "turbomim with max-autotune"))),
}
# a CPU's: it shows that all runs
SMALL: Final = BenchStep(size=32, decoder_width=32, decoder_depth=1, decoder_heads=2)
SMALL_DEPTH: Final = 2


def rows(place: Place, which: str) -> Iterator[Row]:
    """A row a form; where the reference has no room, ours is timed alone."""
    model, groups = PLANS[which]
    task = task_of(place, model)
    for group in groups:
        found = list(attempt(f"step, {model}", functools.partial(timed, place, model, task, group)))
        yield from found
        if "traceback" in found[-1] and group[0] != OURS and OURS in group:
            yield from attempt(f"step, {model}: {OURS}", functools.partial(timed, place, model, task, [OURS]))


def task_of(place: Place, model: str, size: int = SMALL.size) -> Task:
    """A model at the micro-batch of the presets; on a CPU a tiny one of `size` pixels."""
    if place.on_gpu:
        config = configure(model, BenchStep())
        return Task(config=config, batch=micro_batch(config, torch.device("cuda")), device="cuda")
    config = configure("vit-tiny", replace(SMALL, size=size))
    config = replace(config, model=replace(config.model, depth=SMALL_DEPTH))
    return Task(config=config, batch=2, device="cpu")


def timed(place: Place, model: str, task: Task, names: Sequence[str]) -> Iterator[Row]:
    """Forms in turn, after their losses were compared; what a form lacked is a row too."""
    rounds, seconds = (3, 1.0) if place.on_gpu else (2, 0.05)
    found = compare(task, list(names), rounds, seconds)
    yield from map(json.loads, json_lines(model, task, found))
    for row in found:
        if row.failure:
            yield {"name": f"step, {model}: {row.name}", "why_not": row.failure, "batch": task.batch}


def micro_batch(config: Config, device: torch.device) -> int:
    """The rule of the presets: the largest power of two whose predicted memory leaves a fifth of the GPU."""
    bfloat16, room = uses_bfloat16(config.step, device), SHARE * device_bytes(device)
    batch = MOST
    while batch > 1 and predicted_bytes(config, batch, bfloat16=bfloat16, recompute=False).total > room:
        batch //= 2
    return batch
