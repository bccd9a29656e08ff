"""Which trackers there are, and those that a run's settings name.  Each needs the extra of its name."""

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from turbomim.pipeline.system.errors import UserError, one_line_with_class
from turbomim.train.settings.config import Config, RunConfig
from turbomim.train.trackers.beside import PATIENCE, Feed
from turbomim.train.trackers.mlflow import MLflow, check_mlflow
from turbomim.train.trackers.scalars import scalars_of
from turbomim.train.trackers.tensorboard import TensorBoard
from turbomim.train.trackers.tracker import Tracker
from turbomim.train.trackers.trackio import Trackio
from turbomim.train.trackers.wandb import WeightsAndBiases

# by setting of `run`, which is the package's name too: what opens a run that goes on after a step
TRACKERS: Final[Mapping[str, Callable[[Config, Path, int], Tracker]]] = {
    "tensorboard": lambda config, folder, step: TensorBoard(folder, step),
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def _named(run: RunConfig) -> list[str]:
    return [name for name in TRACKERS if getattr(run, name)]


def check_trackers(run: RunConfig) -> None:
    """Raise UserError if a package that the settings need is not installed, or not set up."""
    for name in _named(run):
        value = getattr(run, name)
        setting = f"run.{name} = {'true' if value is True else value}"
        if importlib.util.find_spec(name) is None:
            raise UserError(f'{setting} needs {name}, not installed: pip install "turbomim[{name}]"')
        try:
            # here, not first in a thread beside other imports
            importlib.import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
        except Exception as error:
            raise UserError(f"{setting}: {name} cannot be imported: {one_line_with_class(error)}") from error
    if run.mlflow:
        check_mlflow(run.mlflow)


@contextmanager
def open_trackers(
    config: Config,
    folder: Path,
    step: int,
    kept: Sequence[Mapping[str, Any]],
    tell: Callable[[str], None],
) -> Iterator[list[Feed]]:
    """The trackers that the settings name, for a run that goes on after `step`.

    kept: the log records up to there; each tracker gets those that it does not have.  tell: hears of those
    that fail, which stops nothing.  The end waits for all of them together, PATIENCE seconds.
    """
    feeds = [
        Feed(f"run.{name}", partial(TRACKERS[name], config, folder, step), tell)
        for name in _named(config.run)
    ]
    for record in kept:
        for feed in feeds:
            feed.put(record["step"], scalars_of(record))
    failed = True
    try:
        yield feeds
        failed = False
    finally:
        until = time.monotonic() + PATIENCE
        for feed in feeds:
            feed.end(failed=failed)
        for feed in feeds:
            feed.wait(until)
