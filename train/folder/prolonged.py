"""A run of the schedule wsd that is prolonged: the same settings but its length, in the same folder.

Until the decay the rates do not know how long a run is.  So a longer one goes on from the last checkpoint
before the decay, which every later one names (`State.stable`) and keeps, and ends as if it had been that long
from the start.  What the shorter run made in its decay is replaced.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint, rundir
from turbomim.train.settings.config import AnyConfig, Config
from turbomim.train.settings.dictionary import from_dict
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.settings.schedule import OF_LENGTH, prolongs, stable_steps


def held_optim(config: Config) -> OptimConfig | None:
    """The optimizer's settings of the run that the settings' folder holds, None where it holds none."""
    try:
        return rundir.read_config(rundir.run_folder(config), type(config)).optim
    except UserError:
        return None


def with_held_warmup(config: AnyConfig, held: OptimConfig | None) -> tuple[AnyConfig, list[str]]:
    """The settings with the warm-up of the run that they prolong, if they do, and a line on it.

    A warm-up that is the same share of the longer run was not asked for: it followed from the epochs.
    """
    optim = config.optim
    if held is None or not prolongs(held, optim):
        return config, []
    line = f"prolonged from {held.epochs:g} to {optim.epochs:g} epochs"
    share, shorter = optim.warmup_epochs / optim.epochs, held.warmup_epochs / held.epochs
    if optim.warmup_epochs == held.warmup_epochs or not math.isclose(share, shorter):
        return config, [line]
    warmup = held.warmup_epochs
    line = f"{line}; warm-up stays at {warmup:g} epoch{'s' * (warmup != 1)}"
    return replace(config, optim=replace(optim, warmup_epochs=warmup)), [line]


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
