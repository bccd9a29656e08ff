"""Runs with a mirror, for tests: hurried, killed, and without a mirror that answers."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.runs import attempt, config_for, launch

from turbomim.pipeline.places import lease
from turbomim.pipeline.places.bucket import Bucket
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.train.folder import mirror
from turbomim.train.pretrain import pretrain
from turbomim.train.settings.config import Config

STEPS = 21

HURRIED: tuple[tuple[ModuleType, str, Any], ...] = (
    (pretrain, "about_device", lambda *_: []),
    (mirror, "PERIOD", 0.1),
    (mirror, "PATIENCE", 5.0),
    (mirror, "AGAIN", 0.5),
    (lease, "BEAT", 0.1),
    (lease, "SILENCE", 3.0),
    (lease, "LOOK", 0.1),
    (lease, "SETTLE", 0.05),
)


def mirrored(data: Path, runs: Path, place: Path | str, **run: Any) -> Config:
    """21 steps, a checkpoint every second one and at the end."""
    settings = {"mirror": str(place), "save_every": 2, **run}
    return config_for(data, runs, optim={"epochs": 5, "warmup_epochs": 1}, run=settings)


def hurry(patch: Callable[[object, str, Any], None] = setattr) -> None:
    """Tenths of seconds in place of seconds, in this process; no step's memory, half of a short attempt.

    patch: how; pytest's own process needs `monkeypatch.setattr`, else later tests are hurried too.
    """
    for module, name, value in HURRIED:
        patch(module, name, value)


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Launch `target(*args)` with this process's keys of the store, which `launch` does not pass on."""
    return launch(with_keys, {k: v for k, v in os.environ.items() if k.startswith("AWS_")}, target, *args)


def with_keys(keys: dict[str, str], target: Callable[..., None], *args: Any) -> None:
    os.environ.update(keys)
    target(*args)


def hurried(config: Config) -> None:
    """An attempt."""
    hurry()
    attempt(config)


def when_down(config: Config, flag: Path) -> None:
    """An attempt whose mirror, of that name, is down while there is a file `flag`."""

    def failing(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(place: Place, *args: Any, **options: Any) -> Any:
            if flag.exists() and "/mirror" in str(place):
                raise PlaceError("nobody listens there", "check the network", passing=True)
            return method(place, *args, **options)

        return call

    for kind in (Folder, Bucket):
        for name in ("put", "read", "read_into", "files", "delete", "status"):
            setattr(kind, name, failing(getattr(kind, name)))
    hurried(config)


def bare(config: Config) -> Config:
    """The same run on a machine that has nothing of it."""
    shutil.rmtree(Path(config.run.folder, config.run.name))
    return config
