"""The rate of the training step with given settings, measured in a process of its own.

`python -m turbomim.train.commands.tune.step_rate` takes a job as JSON from standard input and prints the
answer as JSON: a process that runs out of memory takes nothing else with it, and leaves no memory behind.
"""

import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass

import torch
from torch import nn

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.failures import out_of_memory
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UserError, to_stderr
from turbomim.train.loop.data import open_data, open_loader
from turbomim.train.loop.step import Step
from turbomim.train.machine.cpu_products import settle_products
from turbomim.train.machine.memory import peak_bytes
from turbomim.train.machine.tuned_loader import default_speed
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import from_dict
from turbomim.train.settings.precision import uses_bfloat16
from turbomim.train.world.distributed import World, choose_device

# exit code of a process that ran out of memory
NO_MEMORY = 3
# steps that compile and settle before the clock starts
WARM = 3
# random directions that gradients are compared on
PROJECTIONS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRate:
    """What a step does: img/s, loss of the last step before the clock started, most bytes held.

    gradient: `projections` of the first step's.
    """

    img_per_s: float
    loss: float
    peak_bytes: int
    gradient: list[float]


def step_rate(config: Config, seconds: float) -> StepRate:
    """Measure the step of the settings on one rank, over whole steps of the global batch.

    The first batch of data.path is used again and again, so that nothing waits for data.
    """
    world = World(device=choose_device(config.step.device, 0))
    config, _ = settle_products(config, world)
    batches = first_batches(config, world)
    model = make_model(config).to(world.device)
    bfloat16 = uses_bfloat16(config.step, world.device)
    optimizer, clip = make_optimizer(model, config.optim, bfloat16=bfloat16), config.optim.clip_grad
    step = Step(model, optimizer, config.step, world, len(batches), clip)
    loss, _, _ = step(batches, config.optim.lr)
    gradient = projections(model)
    for _ in range(WARM - 1):
        loss, _, _ = step(batches, config.optim.lr)
    # reading a number waits for the device
    last = float(loss)
    steps, begun = 0, time.perf_counter()
    while steps < 2 or time.perf_counter() - begun < seconds:
        loss, _, _ = step(batches, config.optim.lr)
        steps += 1
        float(loss)
    took = time.perf_counter() - begun
    rate = steps * config.optim.global_batch / took
    return StepRate(img_per_s=rate, loss=last, peak_bytes=peak_bytes(world.device), gradient=gradient)


def projections(model: nn.Module) -> list[float]:
    """All gradients on PROJECTIONS random directions, which depend on the device and the shapes alone.

    Two gradients' projections differ, relative to their size, about as much as the gradients do.
    """
    sums = torch.zeros(PROJECTIONS, dtype=torch.float64)
    for number, param in enumerate(param for param in model.parameters() if param.grad is not None):
        assert param.grad is not None
        generator = torch.Generator(param.device).manual_seed(number)
        for place in range(PROJECTIONS):
            direction = torch.randn(param.shape, generator=generator, device=param.device)
            sums[place] += float((direction * param.grad).sum(dtype=torch.float64))
    return sums.tolist()


def first_batches(config: Config, world: World) -> list[Batch]:
    """The micro-batches of the run's first step."""
    split = open_data(config.data.path, "--data", config.data, world)
    with open_loader(
        config,
        split,
        BatchCut(global_batch=config.optim.global_batch, micro_batch=config.optim.micro_batch),
        default_speed(),
        device=world.device.type,
        notify=to_stderr,
    ) as loader:
        return list(itertools.islice(loader, config.optim.global_batch // config.optim.micro_batch))


def main() -> None:
    """Answer the job on standard input: {"config": …, "seconds": …}."""
    job = json.load(sys.stdin)
    try:
        print(json.dumps(asdict(step_rate(from_dict(job["config"], Config(), "job"), job["seconds"]))))
    except (RuntimeError, MemoryError, UserError) as error:
        if out_of_memory(error):
            raise SystemExit(NO_MEMORY) from None
        raise


if __name__ == "__main__":
    main()
