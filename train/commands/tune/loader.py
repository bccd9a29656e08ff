"""`turbomim tune loader`: which loader settings are fastest on this machine, by a short measured search.

Coordinate descent: one setting after the other takes the value of the highest rate, a few seconds a point, if
it also wins against the best so far in most rounds of a comparison.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.stream.turns import BatchCut
from turbomim.pipeline.system.errors import UsageError, to_stderr
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.split import Split
from turbomim.train.commands.tune.paired import ROUNDS, is_faster, paired, wins
from turbomim.train.loop.data import open_data, open_loader, store_in_words
from turbomim.train.machine.measurements import Tuned, machine_name
from turbomim.train.machine.processor import cores
from turbomim.train.machine.tuned_loader import TUNED_LOADER, default_speed
from turbomim.train.machine.versions import versions
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.flags import check_least, parse
from turbomim.train.world.distributed import World, choose_device

if TYPE_CHECKING:
    from turbomim.train.commands.tune.options import TuneLoader

# times that all settings are gone through
PASSES = 2
# parts of a measurement; the median of their rates counts
PARTS = 3
# seconds of a point, and samples of the split, below which the best point is chance and is not kept: a point
# shorter than its threads take to start, or a split that the memory holds, and so nothing was read
LEAST_SECONDS, LEAST_SAMPLES = 0.5, 1_000
# samples a batch where neither recipe nor flag says less
MOST_BATCH = 256

# positions of the stream between the points: each reads photographs that those before did not, as a run does
POINT_POSITIONS = 100_003

# img/s of settings
Measure = Callable[[LoaderSpeed], float]
# values that each setting may take, in the order of the search
Space = Mapping[str, tuple[Any, ...]]


def tune_loader_command(argv: list[str]) -> None:
    """`turbomim tune loader …`.  Raises UserError."""
    # here: a machine lent for a measurement may have no tyro, and takes `loader_rate` alone
    from turbomim.train.commands.tune.options import TuneLoader

    tune_loader(parse(TuneLoader, argv, "turbomim tune loader"))


def tune_loader(options: TuneLoader) -> Tuned[LoaderSpeed]:
    """Search, say every point, and keep the best for this machine if it means anything.  Raises UserError."""
    if not options.seconds > 0:
        raise UsageError(f"--seconds {options.seconds:g}: must be above 0")
    config = recipe_with_options(options)
    world = World(device=choose_device(options.device, 0))
    split = open_data(options.data, "--data", config.data, world)
    batch = config.optim.micro_batch
    machine, workload = machine_name(world.device), store_in_words(config.data, split)
    print(
        f"{machine}\n{split.place}: {workload}; {config.data.crop} crops of {config.data.size} pixels, "
        f"{config.data.interpolation}, batches of {batch}"
    )
    space = search_space(world.device.type, cores())
    points = count_points(space)
    positions = itertools.count(0, POINT_POSITIONS)

    def measure(speed: LoaderSpeed) -> float:
        start = next(positions) // batch * batch
        rate = loader_rate(
            config, split, speed, world.device.type, start=start, seconds=options.seconds / points
        )
        print(f"{rate:10,.0f} img/s  {speed.in_words(world.device.type)}", flush=True)
        return rate

    base = default_speed()
    # fills the page cache with what fits, and does not count
    measure(base)
    best, rates = faster_of_two(measure, base, descend(measure, base, space))
    tuned = Tuned(settings=best, img_per_s=round(rates[best], 1), date=time.strftime("%Y-%m-%d"))
    facts = {
        "default_img_per_s": round(rates[base], 1),
        "split": str(split.place) if split.place.folder is None else str(split.place.folder.absolute()),
        "store": workload,
        "crop": f"{config.data.crop} {config.data.size} {config.data.interpolation}",
        "batch": batch,
        "versions": versions(),
    }
    print(
        f"best: {best.in_words(world.device.type)}: {rates[best]:,.0f} img/s, "
        f"{rates[best] / rates[base]:.2f} times the defaults' {rates[base]:,.0f}"
    )
    if doubt := why_not_kept(split.manifest.samples, options.seconds, points):
        print(f"not kept for later runs: {doubt}")
    else:
        print(f"written to {TUNED_LOADER.write(machine, tuned, facts)}")
    return tuned


def why_not_kept(samples: int, seconds: float, points: int) -> str:
    """Why a measurement says nothing of later runs, with a remedy; "" for one that does."""
    if samples < LEAST_SAMPLES:
        return (
            f"{counted(samples, 'image')} stay in memory, so reading was hardly measured; give --data with "
            f"{LEAST_SAMPLES:,} or more"
        )
    if seconds < LEAST_SECONDS * points:
        return (
            f"{seconds / points:.2g} s for each of {points} points is too short, its threads are still "
            f"starting; give --seconds {LEAST_SECONDS * points:.0f} or more"
        )
    return ""


def recipe_with_options(options: TuneLoader) -> Config:
    """The recipe with the flags laid over it.  Raises UserError for what cannot work."""
    config = recipe(options.recipe)
    given = {name: getattr(options, name) for name in ("size", "crop", "interpolation")}
    data = replace(config.data, **{name: v for name, v in given.items() if v is not None})
    optim = config.optim
    batch = options.micro_batch
    if batch is None:
        batch = min(optim.micro_batch or optim.global_batch, MOST_BATCH)
    check_least(micro_batch=(batch, 1))
    # what is predicted of the images must not refuse a size
    model = replace(config.model, target="raw")
    return replace(config, data=data, model=model, optim=replace(optim, micro_batch=batch))


def search_space(device: str, cores: int) -> Space:
    """What is tried on a device with this many cores."""
    threads = sorted({max(1, cores // 2), max(1, cores - 1), cores, cores * 3 // 2, cores * 2})
    counts = {"threads": tuple(threads), "readers": (1, 2, 4, 8), "prefetch": (1, 2, 3, 4)}
    if device == "cpu":
        return counts
    return {"decode": ("mixed", "cpu"), "hw_decoder_load": (0.0, 0.35, 0.65, 0.8, 0.95), **counts}


def descend(measure: Measure, start: LoaderSpeed, space: Space) -> LoaderSpeed:
    """The settings that no change of a single one makes GAIN times faster, or those after PASSES passes.

    A value that was faster once must win a comparison, as the highest of many noisy rates is too high.
    """
    best, rates = start, {start: measure(start)}
    for _ in range(PASSES):
        before = best
        for name in space:
            for candidate in neighbours(best, name, space):
                if candidate not in rates:
                    rates[candidate] = measure(candidate)
            fastest = max(neighbours(best, name, space), key=rates.__getitem__, default=best)
            if is_faster(measure, rates, best, fastest):
                best = fastest
        if best == before:
            break
    return best


def count_points(space: Space) -> int:
    """Points of a search, with as many comparisons as there are settings; more of them take longer."""
    return 2 + PASSES * sum(len(values) - 1 for values in space.values()) + 2 * ROUNDS * len(space)


def neighbours(speed: LoaderSpeed, name: str, space: Space) -> Iterator[LoaderSpeed]:
    """The settings with every other value of one of them that changes anything."""
    if name == "hw_decoder_load" and speed.decode == "cpu":
        return
    for value in space[name]:
        if value != getattr(speed, name):
            yield replace(speed, **{name: value})


def faster_of_two(
    measure: Measure, base: LoaderSpeed, best: LoaderSpeed
) -> tuple[LoaderSpeed, dict[LoaderSpeed, float]]:
    """The second if it wins a comparison, else the first, and the median rates of both."""
    if best == base:
        return base, {base: measure(base)}
    rounds = paired(measure, base, best)
    rates = dict(zip((base, best), map(statistics.median, zip(*rounds, strict=True)), strict=True))
    return (best if wins(rounds) else base), rates


def loader_rate(
    config: Config, split: Split, speed: LoaderSpeed, device: str, *, start: int, seconds: float
) -> float:
    """img/s of a fresh Loader over `seconds`: the median of PARTS parts.

    start: position of the first batch.
    """
    batch = config.optim.micro_batch
    with open_loader(
        config,
        split,
        BatchCut(global_batch=batch, micro_batch=batch, start=start),
        speed,
        device=device,
        notify=to_stderr,
    ) as loader:
        # these were read and decoded before anybody waited for them
        for _ in range(speed.prefetch + 1):
            next(loader)
        return statistics.median(part_rate(loader, batch, seconds / PARTS) for _ in range(PARTS))


def part_rate(loader: Loader, batch: int, seconds: float) -> float:
    """img/s over `seconds`, or over one batch if that takes longer."""
    begun = time.perf_counter()
    images = 0
    while images == 0 or time.perf_counter() - begun < seconds:
        next(loader)
        images += batch
    return images / (time.perf_counter() - begun)
