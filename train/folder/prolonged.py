"""A run of the schedule wsd that is prolonged: the same settings but its length, in the same folder.

Until the decay the rates do not know how long a run is.  So a longer one goes on from the last checkpoint
before the decay, which every later one names (`State.stable`) and keeps, and ends as if it had been that long
from the start.  What the shorter run made in its decay is replaced.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from turbomim.pipeline.system.durable import read_json, write_durably, write_json
from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.settings.config import AnyConfig, Config
from turbomim.train.settings.dictionary import from_dict
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.settings.schedule import OF_LENGTH, prolongs, stable_steps

# of a run that was prolonged: the share of warm-up before
RECORD: Final = "prolonged.json"


def held_optim(config: Config) -> tuple[OptimConfig, float] | None:
    """The optimizer's settings of the run in the folder, and the share of warm-up that it began with.

    None where it holds no run.
    """
    folder = rundir.run_folder(config)
    try:
        held = rundir.read_config(folder, type(config)).optim
    except UserError:
        return None
    share = read_json(folder / RECORD).get("warmup_share")
    return held, share if isinstance(share, float) else held.warmup_epochs / held.epochs


def note_share(config: Config) -> None:
    """Write down the share of warm-up of a run that these settings prolong, before they take its place."""
    held = held_optim(config)
    if held and prolongs(held[0], config.optim):
        write_json(rundir.run_folder(config) / RECORD, {"warmup_share": held[1]})


def with_held_warmup(
    config: AnyConfig, held: tuple[OptimConfig, float] | None
) -> tuple[AnyConfig, list[str]]:
    """The settings with the warm-up of the run that they prolong, or go on with once it is, and lines on it.

    A warm-up that is the same share of the longer run was not asked for: it followed from the epochs.
    """
    if held is None:
        return config, []
    optim, (before, share) = config.optim, held
    lines = []
    if prolongs(before, optim):
        lines.append(f"prolonged from {before.epochs:g} to {optim.epochs:g} epochs")
    elif (before.schedule, before.epochs) != ("wsd", optim.epochs):
        return config, []
    warmup = before.warmup_epochs
    if optim.warmup_epochs == warmup or not math.isclose(optim.warmup_epochs / optim.epochs, share):
        return config, lines
    lines.append(f"warm-up stays at {warmup:g} epoch{'s' * (warmup != 1)}")
    return replace(config, optim=replace(optim, warmup_epochs=warmup)), ["; ".join(lines)]


def had_these_rates(path: Path, config: Config, samples: int) -> bool:
    """Whether all steps up to a checkpoint had the rates of these settings, whose run it is of."""
    optim = config.optim
    if optim.schedule != "wsd":
        return True
    state = checkpoint.read_state(path)
    held = from_dict(state.config, type(config)(), f"{path}/state.json").optim
    same = all(getattr(held, name) == getattr(optim, name) for name in OF_LENGTH)
    return same or state.step <= min(stable_steps(each, samples) for each in (held, optim))


def made_in_decay(found: Path, config: Config, samples: int) -> list[Path]:
    """Whole checkpoints behind `found` whose rates were those of a shorter run's decay."""
    later = [path for path in checkpoint.complete(found.parent) if path.name > found.name]
    return [p for p in later if checkpoint.is_whole(p) and not had_these_rates(p, config, samples)]


def remove_decay(found: Path, decayed: Sequence[Path], step: int) -> None:
    """Remove checkpoints, and pictures of steps behind that of `found`, which the run goes on from."""
    write_durably(found.parent / "latest", f"{found.name}\n".encode())
    for path in decayed:
        checkpoint.remove(path)
    for picture in (found.parents[1] / "images").glob("reconstruction-????????.png"):
        if picture.stem[-8:].isdecimal() and int(picture.stem[-8:]) > step:
            picture.unlink()
