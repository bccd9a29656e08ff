"""Weights & Biases.

Nothing can be taken back from a run there.  So each start is a new run of one group, and begins with all that
was logged before: the newest has the whole curve.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict


class WeightsAndBiases:
    """A run there, for a run that goes on after `step`; files of its own are in the run folder's wandb/."""

    last_step = 0

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        self._open("wandb", config.run.wandb, config, step, dir=str(folder))

    def _open(self, module: str, project: str, config: Config, step: int, **options: Any) -> None:
        self._module = importlib.import_module(module)
        name = config.run.name if step == 0 else f"{config.run.name}-from-{step}"
        self._run = self._module.init(
            project=project, group=config.run.name, name=name, config=to_dict(config), **options
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        """Send a picture."""
        self._run.log({"reconstruction": self._module.Image(str(path))}, step=step)

    def close(self, *, failed: bool) -> None:
        """Wait until all is sent."""
        self._run.finish(exit_code=int(failed))
