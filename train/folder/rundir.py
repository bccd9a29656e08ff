"""The run directory.

runs/NAME/{config.yaml, env.json, status.json, metrics.jsonl, train.log, ckpt/, images/, export/}; where a
photograph ended a process, deadly.jsonl too (crashes.py); where shards come from a store, shards.json
(seen_shards.py); where MLflow draws the run, mlflow.json (trackers/mlflow.py); where it was prolonged,
prolonged.json.
"""

import json
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from turbomim.pipeline.system.durable import check_writable, read_json, write_durably, write_json
from turbomim.pipeline.system.errors import UserError, one_line
from turbomim.pipeline.system.folder_lock import check_lock, folder_lock
from turbomim.pipeline.system.processes import is_alive
from turbomim.pipeline.system.remedies import FULL, explain
from turbomim.train.machine.processor import cores
from turbomim.train.machine.versions import versions
from turbomim.train.recipes.table import RECIPES, recipe_in_command
from turbomim.train.settings.config import AnyConfig, Config
from turbomim.train.settings.dictionary import differences, from_dict, to_dict
from turbomim.train.settings.schedule import as_long

# what helps where another process has a run's folder
OTHER_NAME = "give another --run.name"


def run_folder(config: Config) -> Path:
    """Where a run keeps everything."""
    return Path(config.run.folder) / config.run.name


class FineTuning(UserError):
    """A folder holds a fine-tuning where a pre-training was asked for."""


def read_config(folder: Path, kind: type[Config] = Config) -> Config:
    """The settings of an existing run.  Raises UserError if there is no run in the folder."""
    path = folder / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.lexists(folder):
            raise UserError(f"{folder} is not a run: it does not exist") from error
        if folder.is_file():
            raise UserError(
                f"{folder} is a file and no run: give a run folder, runs/NAME; `turbomim import` makes one "
                "of a checkpoint"
            ) from error
        # an export's folder, a checkpoint's
        inside = [place for place in folder.parents[:2] if (place / "config.yaml").is_file()]
        if isinstance(error, FileNotFoundError) and inside:
            raise UserError(f"{folder} is not a run, but in the folder of one: give {inside[0]}") from error
        if isinstance(error, FileNotFoundError) and (folder / "config.json").is_file():
            raise UserError(
                f"{folder} is an export: give the run, or the fine-tuning, that it was made of"
            ) from error
        raise UserError(
            f"{folder} is not a run: {path} cannot be read: {explain(error, 'give a run folder, runs/NAME')}"
        ) from error
    return parse_config(text, str(folder), str(path), kind)


def is_finetuning(folder: Path) -> bool:
    """Whether a folder holds a fine-tuning.  Raises UserError if its settings cannot be read."""
    try:
        read_config(folder)
    except FineTuning:
        return True
    return False


def parse_config(text: str, folder: str, path: str, kind: type[AnyConfig]) -> AnyConfig:
    """The settings in the text of a config.yaml; folder, path: the run's and the file's, for people."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {one_line(error)}") from error
    if kind is Config and isinstance(values, dict) and "finetune" in values:
        raise FineTuning(
            f"{folder} is a fine-tuning, not a pre-training: its scores are in {folder}/result.json and in "
            "the report of the run that it began from"
        )
    return from_dict(values, kind(), path)


def check_same(folder: Path, config: Config) -> None:
    """Raise UserError if the folder holds a run whose settings would give other numbers."""
    if (folder / "config.yaml").exists():
        refuse_other(str(folder), read_config(folder, type(config)), config, with_weights(folder, config))


def refuse_other(folder: str, held: Config, config: Config, weights: str = "") -> None:
    """Raise UserError if what a folder holds was run with settings that give other numbers.

    A longer run of the schedule wsd gives the same up to its decay: prolonged.py.
    weights: how a new run begins with the weights of this one, for people.
    """
    if changed := differences(as_long(held, config), config):
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}): "
            f"give the old ones to resume it, or another --run.name to start a new one{weights}"
        )


def with_weights(folder: Path, config: Config) -> str:
    """How a new run begins with these weights, to be said after --run.name; of a fine-tuning none can."""
    return f" (--from {folder} gives it these weights)" if type(config) is Config else ""


def about_done(folder: Path, config: Config, steps: str) -> str:
    """That a run is done, after so many steps, and what to give for more."""
    more = f"another --run.name{with_weights(folder, config)}"
    if config.optim.schedule == "wsd" and not config.data.sizes:
        more = "more --optim.epochs, and this run is prolonged"
    return f"{folder} is done: {steps}; nothing to do; to train longer give {more}"


def write_settings(folder: Path, config: Config, device: torch.device, world: int) -> None:
    """Write config.yaml and env.json."""
    settings = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_durably(folder / "config.yaml", settings.encode())
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    env = {
        "versions": versions(),
        "command": sys.argv,
        "platform": platform.platform(),
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": gpu,
        "ranks": world,
    }
    write_json(folder / "env.json", env)


def set_status(folder: Path, status: str, step: int, position: int) -> None:
    """Write status.json: running, done, preempted or failed, with the step and position reached."""
    of_process = {"process": os.getpid(), "host": socket.gethostname()}
    record = {"status": status, "step": step, "position": position, **of_process}
    write_durably(folder / "status.json", (json.dumps(record) + "\n").encode())


def read_status(folder: Path) -> dict[str, Any]:
    """What status.json says; nothing if it cannot be read."""
    return read_json(folder / "status.json")


def recipe_of(folder: Path) -> str:
    """The recipe that a run's settings are laid over, empty where none is known.

    Settings of earlier versions do not name it: then the command in env.json does.
    """
    try:
        named = read_config(folder).run.recipe
    except (UserError, ValueError, RecursionError):
        named = ""
    return named if named in RECIPES else recipe_in_command(read_json(folder / "env.json").get("command"))


def has_died(status: dict[str, Any]) -> bool:
    """Whether a run is said to be running by a process of this machine that is not there any more."""
    return status.get("status") == "running" and is_alive(status) is False


@contextmanager
def explaining_full_disk(folder: Path) -> Iterator[None]:
    """Within it an error that the disk is full becomes a UserError that says how to go on.

    Put it around what closes files, too: on a full disk closing raises again, and hides the first error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"{folder} cannot be written: {error}; {shutil.disk_usage(folder).free:,} bytes are free "
            "there; checkpoints are intact: free some space and run the same command again"
        ) from error


def check_unlocked(config: Config) -> None:
    """Raise UserError where `lock_run` would, as far as that can be told without writing anything."""
    folder = run_folder(config)
    if config.run.lock:
        check_lock(folder, what=folder, other=OTHER_NAME)
    check_writable(folder)


def lock_run(config: Config) -> AbstractContextManager[None]:
    """Make the run's folder, and keep a second process out of it.  Raises UserError as `folder_lock`."""
    folder, without = run_folder(config), "--run.lock false"
    return folder_lock(folder, what=folder, other=OTHER_NAME, without=without, wanted=config.run.lock)
