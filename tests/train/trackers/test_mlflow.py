"""MLflow's own client on its file store.

Planted bugs, and the test that each makes fail:
- every start a new run, or every record sent again: `test_a_killed_run_is_one_run_with_no_point_twice`;
- it is noted after the settings, or looked for after a checkpoint only, or settings are sent again:
  `test_settings_that_fail_and_a_kill_before_the_first_checkpoint_make_no_second_run`;
- the run looked for where another MLflow is: `test_elsewhere_it_is_a_new_run_with_the_whole_curve`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from tests.runs import quiet
from tests.train.trackers.killed import drawn, killed_and_resumed

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, RunConfig
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.trackers import mlflow as tracked
from turbomim.train.trackers.mlflow import MLflow
from turbomim.train.trackers.opening import check_trackers


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where MLflow keeps runs; as a user of its file store sets it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return tmp_path / "mlruns"


def the_runs() -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("mim")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def steps_of(run: mlflow.entities.Run, name: str) -> list[int]:
    return [point.step for point in mlflow.MlflowClient().get_metric_history(run.info.run_id, name)]


def test_a_killed_run_is_one_run_with_no_point_twice(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    runs = tmp_path / "runs"
    records = killed_and_resumed(drawn(tiny_split.folder, runs, mlflow="mim"), monkeypatch)
    (run,) = the_runs()
    assert run.info.status == "FINISHED" and run.info.run_name == "r"
    assert run.data.params["model.width"] == "32"
    for name in ("loss/train", "optim/lr", "data/epoch"):
        assert steps_of(run, name) == [record["step"] for record in records], f"{name}: twice, or missing"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss/train")
    assert [point.value for point in history] == pytest.approx([record["loss"] for record in records])
    pictures = [int(re.findall(r"step\D(\d+)", path.name)[0]) for path in place.rglob("*.png")]
    assert sorted(pictures) == [*range(5, len(records), 5), len(records)]


def test_settings_that_fail_and_a_kill_before_the_first_checkpoint_make_no_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    config = Config(run=RunConfig(name="r", mlflow="mim"))
    real, asked = mlflow.MlflowClient.log_batch, list[int]()

    def second_fails(self: mlflow.MlflowClient, *args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise ConnectionError("down")
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", second_fails)
        patch.setattr(tracked, "MOST_PARAMETERS", 50)
        with pytest.raises(ConnectionError):
            MLflow(config, tmp_path, 0)
        MLflow(config, tmp_path, 0).scalars(1, {"loss/train": 1.0})
    # killed here; the number of threads may change
    changed = replace(config, data=replace(config.data, threads=3))
    assert MLflow(changed, tmp_path, 0).last_step == 1
    (run,) = the_runs()
    assert set(run.data.params) == {
        f"{section}.{key}" for section, values in to_dict(config).items() for key in values
    }


def test_elsewhere_it_is_a_new_run_with_the_whole_curve(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    config = drawn(tiny_split.folder, tmp_path / "runs", mlflow="mim")
    records = killed_and_resumed(config, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "other").as_uri())
    pretrain(config, console=quiet())
    (run,) = the_runs()
    assert steps_of(run, "loss/train") == [record["step"] for record in records]


def test_a_place_that_cannot_be_is_one_line_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://nowhere")
    with pytest.raises(UserError, match=r"run.mlflow = mim: MLflow cannot keep runs at ftp://nowhere: set "):
        check_trackers(RunConfig(mlflow="mim"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "odd://me:S3CRET@host/mlflow")
    with pytest.raises(UserError, match=r"keep runs at odd://host/mlflow: ") as error:
        check_trackers(RunConfig(mlflow="mim"))
    assert "S3CRET" not in str(error.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    check_trackers(RunConfig(mlflow="mim"))
