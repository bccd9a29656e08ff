"""Checkpoints are whole or not listed.

Planted bugs and the test that fails on each: writing under the final name fails
`test_a_kill_anywhere_in_the_write_leaves_a_whole_one`; checksums that nobody looks at fail
`test_damage_is_noticed_and_the_one_before_is_taken`; a snapshot that shares memory with the model fails
`test_a_snapshot_is_not_changed_by_the_next_step`; a saver that does not wait for the one before fails
`test_the_saver_writes_beside_one_at_a_time_and_tells_what_failed`; a clean-up that counts only the newest
fails `test_the_one_to_roll_back_to_is_kept`; safetensors' own files, which only their owner reads, fail
`test_others_may_read_it_as_the_umask_says`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint
from turbomim.train.folder.checkpoint import Snapshot, State
from turbomim.train.loop.checkpoints import Saver
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.optim import OptimConfig


def trained(seed: int = 0, steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    optimizer = make_optimizer(model, OptimConfig(base_lr=1e-2))
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(3, 4)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def state(step: int) -> State:
    return State(step=step, position=step * 8, fingerprint="f" * 64, config={}, versions={})


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, at: State, keep: int) -> Path:
    return checkpoint.write(folder, checkpoint.capture(model, optimizer, at), keep)


def test_round_trip_continues_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, model, optimizer, state(2), keep=2)
    other, fresh = trained(seed=1, steps=0)
    checkpoint.load(path, other, fresh)
    assert checkpoint.read_state(path) == state(2)
    for net, opt in ((model, optimizer), (other, fresh)):
        torch.manual_seed(5)
        opt.zero_grad()
        net(torch.randn(3, 4)).square().mean().backward()
        opt.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_keeps_the_newest_and_points_at_the_last(tmp_path: Path) -> None:
    model, optimizer = trained()
    for step in (1, 5, 9):
        save(tmp_path, model, optimizer, state(step), keep=2)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-00000009", "step-00000005"]
    assert (tmp_path / "latest").read_text() == "step-00000009\n"
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000009", [])


@pytest.mark.parametrize("umask", [0o022, 0o007])
def test_others_may_read_it_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = save(tmp_path, *trained(), state(1), keep=2)
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in [*path.iterdir(), tmp_path / "latest"]}
    assert modes == dict.fromkeys([*checkpoint.FILES, "SHA256SUMS", "COMPLETE", "latest"], 0o666 & ~umask)


@pytest.mark.parametrize("name", checkpoint.FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damage_is_noticed_and_the_one_before_is_taken(tmp_path: Path, name: str, damage: str) -> None:
    model, optimizer = trained()
    for step in (1, 2):
        save(tmp_path, model, optimizer, state(step), keep=2)
    victim = tmp_path / "step-00000002" / name
    content = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        victim.write_bytes(content[:-1] if damage == "cut" else flipped)
    found, damaged = checkpoint.newest(tmp_path)
    assert found == tmp_path / "step-00000001"
    assert damaged == [tmp_path / "step-00000002"]
    save(tmp_path, model, optimizer, state(2), keep=2)
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000002", [])


# everything that a write asks of the system, in the modules that ask
ASKED = (
    (checkpoint, "save_tensors"), (Path, "mkdir"), (Path, "write_text"), (checkpoint, "file_sha256"),
    (os, "fsync"), (os, "rename"), (os, "replace"), (os, "open"), (shutil, "rmtree"),
)  # fmt: skip


def stopping(moment: int, after: bool) -> None:
    """Let this process stop, as if pulled out of a wall, at one of the calls that a write makes."""
    calls = 0

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **given: Any) -> Any:
            nonlocal calls
            calls += 1
            here = calls == moment
            if here and not after:
                os.kill(os.getpid(), signal.SIGSTOP)
            result = real(*args, **given)
            if here and after:
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        return counted

    for owner, name in ASKED:
        setattr(owner, name, wrap(getattr(owner, name)))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_anywhere_in_the_write_leaves_a_whole_one(tmp_path: Path, after: bool) -> None:
    """Stopped, then killed, before or after each call: the old one or the new one is found, never a part."""
    model, optimizer = trained()
    snapshot = checkpoint.capture(model, optimizer, state(3))
    found_names = []
    for moment in itertools.count(1):
        folder = tmp_path / str(moment)
        for step in (1, 2):
            save(folder, model, optimizer, state(step), keep=2)
        pid = os.fork()
        if pid == 0:
            stopping(moment, after)
            checkpoint.write(folder, snapshot, 2)
            os._exit(0)
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
        # read while it stands still, and after its death
        for kill in (False, True):
            if kill:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            found, damaged = checkpoint.newest(folder)
            assert found is not None and not damaged, moment
            name = found.name
        found_names.append(name)
        save(folder, model, optimizer, state(4), keep=2)
        assert not list(folder.glob(".tmp-*")) and len(checkpoint.complete(folder)) == 2
        assert (folder / "latest").read_text() == "step-00000004\n"
    assert len(found_names) > 15
    # the rename decides: before it the old one, from then on the new one
    assert found_names == sorted(found_names)
    assert set(found_names) == {"step-00000002", "step-00000003"}


class Disk:
    """Stands in for the write of a checkpoint: waits to be let go, counts those at work, may fail."""

    def __init__(self) -> None:
        self.go, self.at_work, self.most, self.fail = threading.Event(), 0, 0, False
        self.steps: list[int] = []

    def write(self, folder: Path, snapshot: Snapshot, keep: int) -> Path:
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        assert self.go.wait(30)
        self.at_work -= 1
        if self.fail:
            raise UserError("the disk is full")
        self.steps.append(snapshot.state.step)
        return folder


def test_the_saver_writes_beside_one_at_a_time_and_tells_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    monkeypatch.setattr(checkpoint, "write", disk.write)
    model, optimizer = trained()
    one, two = (checkpoint.capture(model, optimizer, state(step)) for step in (1, 2))
    with Saver(tmp_path, keep=2, background=True) as saver:
        saver.save(one)
        assert saver.take_error() is None and disk.steps == []
        threading.Timer(0.1, disk.go.set).start()
        saver.save(two)
        saver.wait()
        assert disk.steps == [1, 2] and disk.most == 1
        disk.fail = True
        saver.save(one)
        with pytest.raises(UserError, match="the disk is full"):
            saver.save(two)
        saver.save(one)
        deadline = time.monotonic() + 30
        while (error := saver.take_error()) is None:
            assert time.monotonic() < deadline
        assert "the disk is full" in str(error) and saver.take_error() is None
        disk.fail = False
        saver.save(one)
    assert disk.steps == [1, 2, 1], "the end waits for the last one"


def test_a_snapshot_is_not_changed_by_the_next_step(tmp_path: Path) -> None:
    model, optimizer = trained()
    snapshot = checkpoint.capture(model, optimizer, state(2))
    kept = [tensor.clone() for tensor in (*snapshot.weights.values(), *snapshot.moments.values())]
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    assert all(map(torch.equal, kept, (*snapshot.weights.values(), *snapshot.moments.values())))
    assert not any(map(torch.equal, snapshot.weights.values(), model.state_dict().values()))


def test_the_one_to_roll_back_to_is_kept(tmp_path: Path) -> None:
    model, optimizer = trained()
    for step in (4, 5, 6, 7):
        save(tmp_path, model, optimizer, dataclasses.replace(state(step), good=4), keep=2)
    assert [path.name[-1] for path in checkpoint.complete(tmp_path)] == ["7", "6", "4"]
    assert checkpoint.at_step(tmp_path, 4).name == "step-00000004"
    with pytest.raises(UserError, match="step-00000005 is needed to roll back to and is not whole"):
        checkpoint.at_step(tmp_path, 5)


def test_full_disk_keeps_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained()
    save(tmp_path, model, optimizer, state(1), keep=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"No space left on device.*B are free.*earlier checkpoints are intact"
    ):
        save(tmp_path, model, optimizer, state(2), keep=2)
    monkeypatch.undo()
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000001", [])
    assert not list(tmp_path.glob(".tmp-*"))


def test_newer_damaged_ones_make_room_and_never_push_out_the_whole(tmp_path: Path) -> None:
    model, optimizer = trained()
    for step in (1, 10, 20):
        save(tmp_path, model, optimizer, state(step), keep=3)
    for step in (10, 20):
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("")
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "step-00000001"
    for step in (5, 6):
        path = save(tmp_path, model, optimizer, state(step), keep=2)
        assert checkpoint.newest(tmp_path) == (path, [])
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-00000006", "step-00000005"]


def test_nothing_whole_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, model, optimizer, state(1), keep=2)
    (path / "state.json").write_text("")
    with pytest.raises(
        UserError, match=r"no checkpoint in .* is whole \(step-00000001\): restore one, or remove"
    ):
        checkpoint.newest(tmp_path)


def test_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, model, optimizer, state(1), keep=2)
    with pytest.raises(UserError, match="does not fit this model") as error:
        checkpoint.load(path, nn.Linear(4, 9))
    assert "\n" not in str(error.value)
    (path / "state.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(UserError, match=r"state.json cannot be read"):
        checkpoint.read_state(path)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = save(tmp_path, model, optimizer, state(1), keep=2)
    assert {p.name for p in path.iterdir()} == {*checkpoint.FILES, "SHA256SUMS", "COMPLETE"}
    for name in checkpoint.FILES[:2]:
        # safetensors: eight bytes of header length, then JSON
        assert (path / name).read_bytes()[8:9] == b"{"
