"""`turbomim tune step`: which micro-batch, compile mode and recomputation are fastest on this machine.

Every point is measured in a process of its own, so that one without room ends alone.  Global batch and
learning rate stay as they are: only how a step is cut changes.
"""

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.system.words import counted
from turbomim.train.commands.tune.options import TuneStep
from turbomim.train.commands.tune.paired import is_faster
from turbomim.train.commands.tune.step_rate import NO_MEMORY
from turbomim.train.loop.data import open_data
from turbomim.train.machine.cpu_products import settle_products
from turbomim.train.machine.measurements import Tuned
from turbomim.train.machine.memory import GIB, device_bytes
from turbomim.train.machine.predicted_memory import predicted_bytes
from turbomim.train.machine.tuned_step import TUNED_STEP, StepSettings, step_key, with_settings
from turbomim.train.machine.versions import versions
from turbomim.train.recipes.command_line import config_of
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.flags import check_least, parse_with_settings
from turbomim.train.settings.precision import uses_bfloat16
from turbomim.train.world.distributed import World, choose_device

# micro-batches tried: the largest that fits, and this many halvings
HALVINGS = 3
# predicted memory may be this share of the device's before a point is not even tried
ROOM = 1.15
# what rounding changes of the first step's gradient, as a share of it, with products in float32 and bfloat16;
# a lost micro-step changes at least a tenth
SAME_GRADIENT = {False: 1e-3, True: 0.05}
# seconds after which a measurement is given up, above those it is to take
LIMIT = 900

# img/s of settings, 0 where memory does not suffice
Measure = Callable[[StepSettings], float]


def tune_step_command(argv: list[str]) -> None:
    """`turbomim tune step …`.  Raises UserError."""
    options, flags = parse_with_settings(TuneStep, argv, "turbomim tune step")
    check_least(ranks=(options.ranks, 1), images=(1 if options.images is None else options.images, 1))
    if not 0 < options.seconds < math.inf:
        raise UsageError(f"--seconds {options.seconds:g}: must be above 0")
    config = config_of(options.recipe, {"data.path": options.data, **flags}, options.config, "flags")
    tune_step(config, ranks=options.ranks, images=options.images, seconds=options.seconds)


def tune_step(config: Config, *, ranks: int, images: int | None, seconds: float) -> Tuned[StepSettings]:
    """Search, say every point, and keep the best for this machine and model.  Raises UserError."""
    world = World(device=choose_device(config.step.device, 0))
    config, _ = settle_products(config, world)
    open_data(config.data.path, "--data", config.data, world)
    images = images or config.optim.global_batch // ranks
    if images < 1:
        raise UsageError(
            f"--ranks {ranks}: more than the {config.optim.global_batch} samples of optim.global_batch"
        )
    key = step_key(config, world)
    print(f"{key}\nsteps of {counted(images, 'image')}, {seconds:g} s a measurement")
    gradients: list[list[float]] = []
    most = SAME_GRADIENT[uses_bfloat16(config.step, world.device)]
    failures: list[str] = []

    def measure(settings: StepSettings) -> float:
        answer = run_step_rate(with_settings(config, settings), images, seconds)
        rate, what = float(answer.get("img_per_s", 0)), answer.get("failure", "out of memory")
        if rate:
            what = f"{rate:,.1f} img/s, {answer['peak_bytes'] / GIB:.1f} GiB"
            gradients.append(answer["gradient"])
            # a mode that computes something else is not a faster one
            apart = gradient_difference(gradients[-1], gradients[0])
            if not apart <= most:
                rate, what = 0.0, f"{what}, but gradients {apart:.0%} off the first's: left out"
        if not rate:
            failures.append(what)
        print(f"  {settings.in_words():<52} {what}", flush=True)
        return rate

    fits = settings_that_fit(config, world, images)
    graphs = world.device.type == "cuda" and config.step.compile
    try:
        best = search(measure, fits, graphs=graphs, images=images)
    except UserError as error:
        raise UserError(f"{error}; the first said: {failures[0]}" if failures else str(error)) from error
    rate = measure(best)
    found = Tuned(settings=best, img_per_s=round(rate, 1), date=time.strftime("%Y-%m-%d"))
    facts = {"images": images, "data": config.data.path, "versions": versions()}
    path = TUNED_STEP.write(key, found, facts)
    print(f"best: {best.in_words()}: {rate:,.1f} img/s on one rank\nwritten to {path}")
    return found


def settings_that_fit(config: Config, world: World, images: int) -> list[StepSettings]:
    """What is tried first: largest micro-batch first, without recomputation before with it.

    Micro-batches are the images of a step halved as often as that goes; what needs far more memory than there
    is, as predicted, is left out.
    """
    micro_batches = [images]
    while micro_batches[-1] % 2 == 0:
        micro_batches.append(micro_batches[-1] // 2)
    bfloat16, room = uses_bfloat16(config.step, world.device), ROOM * device_bytes(world.device)
    return [
        StepSettings(micro_batch=micro_batch, recompute=recompute)
        for recompute in (False, True)
        for micro_batch in micro_batches
        if predicted_bytes(config, micro_batch, bfloat16=bfloat16, recompute=recompute).total <= room
    ]


def gradient_difference(gradient: list[float], reference: list[float]) -> float:
    """How far projections of a gradient are from another's, as a share of these."""
    return math.dist(gradient, reference) / math.hypot(*reference)


def search(measure: Measure, fits: Sequence[StepSettings], *, graphs: bool, images: int = 0) -> StepSettings:
    """The fastest settings: a change must win most rounds of a comparison.

    images: of a step; CUDA graphs take them as one micro-batch.

    From the largest micro-batch that runs: half of it, and so on; CUDA graphs; and, where a larger one
    runs only with recomputation, that.  Raises UserError where nothing runs.
    """
    rates: dict[StepSettings, float] = {}

    def rate(settings: StepSettings) -> float:
        if settings not in rates:
            rates[settings] = measure(settings)
        return rates[settings]

    def better(candidate: StepSettings, best: StepSettings) -> bool:
        rate(candidate)
        return is_faster(measure, rates, best, candidate)

    largest = next((settings for settings in fits if rate(settings) > 0), None)
    if largest is None:
        raise UserError(
            "no step runs here, with recomputation and a micro-batch of one image neither: where memory ran "
            "out, use a smaller model or image"
        )
    best = largest
    for halving in range(1, HALVINGS + 1):
        smaller = dataclasses.replace(largest, micro_batch=largest.micro_batch >> halving)
        if smaller in fits and better(smaller, best):
            best = smaller
    if graphs and best.micro_batch == (images or best.micro_batch):
        mode = dataclasses.replace(best, compile_mode="reduce-overhead")
        if better(mode, best):
            best = mode
    wider = [each for each in fits if each.recompute and each.micro_batch > largest.micro_batch]
    if not largest.recompute:
        for settings in wider[:2]:
            if better(settings, best):
                best = settings
    return best


def run_step_rate(config: Config, images: int, seconds: float) -> dict[str, Any]:
    """The answer of a process that measures a step of `images` images; empty if it ran out of memory.

    One that ends otherwise, or not at all, costs itself alone: its answer is {"failure": why}.
    """
    optim = dataclasses.replace(config.optim, global_batch=images)
    job = {"config": to_dict(dataclasses.replace(config, optim=optim)), "seconds": seconds}
    command = [sys.executable, "-m", "turbomim.train.commands.tune.step_rate"]
    limit = LIMIT + 10 * seconds
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"failed: it took more than {limit:.0f} s: give fewer --images"}
    # the system kills what takes the machine's last memory
    if done.returncode in (NO_MEMORY, -9):
        return {}
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"failure": f"failed: {said[-1]}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
