"""MLflow: one run there for a run here, however often that is started.

Which one is in the run folder's mlflow.json.  What it has is asked of MLflow, and only later steps are sent:
steps that a killed run sent after its last checkpoint stay as it sent them.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from turbomim.pipeline.system.durable import write_json
from turbomim.pipeline.system.errors import UserError, one_line, without_password
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import to_dict

# settings of one request, and characters of a value, at most: MLflow refuses more
MOST_PARAMETERS, MOST_CHARACTERS = 100, 500


def check_mlflow(experiment: str) -> None:
    """Raise UserError if this MLflow cannot keep runs where its settings say.  Asks no server."""
    try:
        _client()
    except Exception as error:
        remedy = "set MLFLOW_TRACKING_URI to a server's URL, or install mlflow for sqlite:///FILE"
        where = without_password(_tracking_uri())
        why = f"MLflow cannot keep runs at {where}: {remedy} ({one_line(error, 200)})"
        raise UserError(f"run.mlflow = {experiment}: {why}") from error


def _client() -> Any:
    import mlflow

    client = mlflow.MlflowClient()
    # a place that is a server is known by its URL alone
    if not _tracking_uri().startswith(("http://", "https://", "databricks")):
        client.search_experiments(max_results=1)
    return client


def _tracking_uri() -> str:
    import mlflow

    return str(mlflow.get_tracking_uri())


class MLflow:
    """The run of a run folder, where MLFLOW_TRACKING_URI or MLflow's other settings say."""

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        self._client = _client()
        note = folder / "mlflow.json"
        there = self._run_of(note)
        self._run = there or self._new_run(config, note)
        if there:
            self._client.update_run(there, status="RUNNING")
        self._send_settings(config)
        self.last_step = self._find_last_step()

    def _run_of(self, note: Path) -> str:
        """The run that was noted, if MLflow here still has it; else nothing."""
        from mlflow.exceptions import MlflowException

        if not note.is_file():
            return ""
        run = str(json.loads(note.read_text(encoding="utf-8"))["run_id"])
        try:
            stage = self._client.get_run(run).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return ""
            raise
        return run if stage == "active" else ""

    def _new_run(self, config: Config, note: Path) -> str:
        name = config.run.mlflow
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run = str(self._client.create_run(number, run_name=config.run.name).info.run_id)
        # at once: what fails after it is tried again on this run
        write_json(note, {"experiment": name, "run_id": run})
        return run

    def _send_settings(self, config: Config) -> None:
        """Send the settings that it has not yet: MLflow takes no other value for one that it has."""
        from mlflow.entities import Param

        known = self._client.get_run(self._run).data.params
        settings = [
            Param(f"{section}.{key}", str(value)[:MOST_CHARACTERS])
            for section, values in to_dict(config).items()
            for key, value in values.items()
            if f"{section}.{key}" not in known
        ]
        for begin in range(0, len(settings), MOST_PARAMETERS):
            self._client.log_batch(self._run, params=settings[begin : begin + MOST_PARAMETERS])

    def _find_last_step(self) -> int:
        keys = self._client.get_run(self._run).data.metrics
        return max(
            (m.step for key in keys for m in self._client.get_metric_history(self._run, key)), default=0
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now, step) for name, value in values.items()])

    def picture(self, step: int, path: Path) -> None:
        """Send a picture."""
        self._client.log_image(self._run, Image.open(path), key="reconstruction", step=step)

    def close(self, *, failed: bool) -> None:
        """Note how the run ended."""
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")
