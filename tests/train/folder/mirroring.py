"""Runs with a mirror, for tests: hurried, killed, and without a mirror that answers."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.runs import attempt, config_for, launch

from turbomim.pipeline.places import lease
from turbomim.pipeline.places.bucket import Bucket
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.train.folder import checkpoint, mirror
from turbomim.train.folder.checkpoint import Snapshot, State
from turbomim.train.folder.copied import LEASE, OF_CHECKPOINT, files_of, whole_in
from turbomim.train.folder.from_mirror import take_from_mirror
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


def said(config: Config) -> str:
    """What a user was told by the attempt that failed."""
    return Path(config.run.folder, "said-0").read_text()


def log(config: Config) -> str:
    return Path(config.run.folder, "r", "train.log").read_text()


def there(config: Config) -> Place:
    return open_place(config.run.mirror).below("r")


def content(config: Config) -> dict[str, bytes]:
    """What the mirror has."""
    place = there(config)
    return {name: place.read(name) for name in place.files()}


def assert_mirrored(config: Config) -> None:
    """The mirror is the run folder, but for what is temporary, and checkpoints before the newest."""
    folder, found = Path(config.run.folder, "r"), content(config)
    newest = [f"ckpt/step-000000{STEPS}/{name}" for name in OF_CHECKPOINT]
    files = [*files_of(folder), *newest, "ckpt/latest"]
    assert {name: found[name] for name in files} == {name: (folder / name).read_bytes() for name in files}
    assert {"config.yaml", "env.json", "status.json", "metrics.jsonl", "train.log"} <= set(files)
    assert any(name.startswith("export/") for name in files)
    assert 1 <= len(whole_in(found)) <= config.run.keep
    # and nothing else, but for what a kill left of a lease
    others = {f"ckpt/{step}/{name}" for step in whole_in(found) for name in OF_CHECKPOINT}
    assert {n for n in set(found) - set(files) if not n.startswith(".lease.json.")} <= others


def write(folder: Path, step: int, *, good: int) -> None:
    """A checkpoint of next to nothing."""
    state = State(step=step, position=step, fingerprint="f", config={}, versions={}, good=good)
    tensors = {"w": torch.full((3,), float(step))}
    checkpoint.write(folder / "ckpt", Snapshot(state=state, weights=tensors, moments=tensors), 2)


def taken(place: Place, number: int) -> None:
    words = {"host": "elsewhere", "process": 7, "system": "", "born": "", "lease": "x", "beat": number}
    place.put(LEASE, json.dumps(words).encode())


def refusal(config: Config) -> str:
    """What a start is told that takes nothing from its mirror."""
    with pytest.raises(UserError) as raised, mirror.Mirror(config, print) as opened:
        take_from_mirror(opened, Path(config.run.folder, "r"), print)
    return str(raised.value)
