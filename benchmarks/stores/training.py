"""Training on a split in a process of its own: its rate, and what it waited.  Prints a JSON line."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from typing import Any, Final

from turbomim.benchmarks.loader.run import cpu_seconds
from turbomim.benchmarks.options import BenchStep
from turbomim.benchmarks.step.bench import configure
from turbomim.benchmarks.step.train import timed_steps
from turbomim.benchmarks.stores.job import ReadJob, Served
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.train.loop.data import open_data, open_loader
from turbomim.train.loop.step import Step
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.world.distributed import join_ranks

# some 15 ms an image on 2 cores: not free, and not so long that no loader is seen; not compiled, which takes
# longer than the steps do
MODEL: Final = "vit-tiny"
DECODER: Final = BenchStep(decoder_width=96, decoder_depth=2, decoder_heads=3)
FIRST_STEPS: Final = 3
# seconds without a request, after which all is there that is read ahead
SILENCE: Final = 1.0


def train(job: ReadJob) -> dict[str, Any]:
    """Steps of a small model over one epoch: images a second, % waited, CPU seconds a 1,000 images."""
    config = configure(MODEL, DECODER)
    config = replace(
        config, data=replace(config.data, path=job.where), step=replace(config.step, compile=False)
    )
    with join_ranks("cpu") as world:
        split = open_data(job.where, "--data", config.data, world)
        model = make_model(config).to(world.device)
        optimizer, clip = make_optimizer(model, config.optim), config.optim.clip_grad
        step = Step(model, optimizer, config.step, world, micro_steps=1, clip_grad=clip)
        cut = BatchCut(global_batch=job.batch, micro_batch=job.batch)
        speed = LoaderSpeed(threads=job.cores)
        with open_loader(config, split, cut, speed, device="cpu", notify=_say) as loader:
            timed_steps(step, loader, FIRST_STEPS)
            _let_read_ahead(job)
            before, cpu = Served.now(job), cpu_seconds()
            steps = job.samples // job.batch
            seconds, wait = timed_steps(step, loader, steps)
            used, served = cpu_seconds() - cpu, Served.now(job).since(before)
    images = steps * job.batch
    return {
        "images": images,
        "images_per_s": images / seconds,
        "wait_pct": 100 * wait / seconds,
        "cpu_s": 1000 * used / images,
        "server_cpu_s": 1000 * served.cpu_s / images,
        "requests": served.requests,
        "sent_bytes": served.sent_bytes,
    }


def _let_read_ahead(job: ReadJob) -> None:
    """Wait until nothing is asked for: from then on what is read is what the steps use up."""
    before, now = Served(requests=-1), Served.now(job)
    while now.requests != before.requests:
        time.sleep(SILENCE)
        before, now = now, Served.now(job)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """`training JSON`: answer one request of the comparison."""
    job = ReadJob(**json.loads(sys.argv[1])["job"])
    print(json.dumps(train(job)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
