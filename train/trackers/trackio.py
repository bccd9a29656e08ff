"""Trackio, which has the functions of Weights & Biases, and draws on this machine."""

from pathlib import Path

from turbomim.train.settings.config import Config
from turbomim.train.trackers.wandb import WeightsAndBiases


class Trackio(WeightsAndBiases):
    """A run of Trackio, on this machine unless Trackio's own environment variables name another place."""

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        # no page within a notebook's cell, and no figures of the machine beside those of the log
        options = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self._open("trackio", config.run.trackio, config, step, **options)

    def close(self, *, failed: bool) -> None:
        """Wait until all is written; Trackio does not know of runs that fail."""
        self._run.finish()
