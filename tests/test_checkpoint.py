"""Checkpoints are whole or not listed, and loading them runs nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from turbomim.pipeline.errors import UserError
from turbomim.train import checkpoint
from turbomim.train.checkpoint import State
from turbomim.train.config import OptimConfig
from turbomim.train.optim import make_optimizer


def trained(seed: int = 0, steps: int = 2) -> tuple[nn.Module, torch.optim.AdamW]:
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


def test_round_trip_continues_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = checkpoint.save(tmp_path, model, optimizer, state(2), keep=2)
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
        checkpoint.save(tmp_path, model, optimizer, state(step), keep=2)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-00000009", "step-00000005"]
    assert (tmp_path / "latest").read_text() == "step-00000009\n"
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000009", [])


@pytest.mark.parametrize("name", checkpoint.FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_damage_is_noticed_and_the_one_before_is_taken(tmp_path: Path, name: str, damage: str) -> None:
    model, optimizer = trained()
    for step in (1, 2):
        checkpoint.save(tmp_path, model, optimizer, state(step), keep=2)
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
    checkpoint.save(tmp_path, model, optimizer, state(2), keep=2)
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000002", [])


@pytest.mark.parametrize("stop", ["fsync", "rename", "replace"])
def test_a_kill_inside_the_write_leaves_the_old_one(
    tmp_path: Path, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies at a call of the operating system: nothing after it happens, no clean-up either."""
    model, optimizer = trained()
    checkpoint.save(tmp_path, model, optimizer, state(1), keep=2)
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 9
    else:
        monkeypatch.setattr(os, stop, lambda *_: os._exit(9))
        checkpoint.save(tmp_path, model, optimizer, state(2), keep=2)
        os._exit(0)
    found, damaged = checkpoint.newest(tmp_path)
    assert damaged == []
    assert found is not None and found.name == ("step-00000002" if stop == "replace" else "step-00000001")
    checkpoint.save(tmp_path, model, optimizer, state(3), keep=2)
    assert not list(tmp_path.glob(".tmp-*"))
    assert (tmp_path / "latest").read_text() == "step-00000003\n"


def test_full_disk_keeps_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained()
    checkpoint.save(tmp_path, model, optimizer, state(1), keep=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        UserError, match=r"No space left on device.*MB are free.*earlier checkpoints are intact"
    ):
        checkpoint.save(tmp_path, model, optimizer, state(2), keep=2)
    monkeypatch.undo()
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000001", [])
    assert not list(tmp_path.glob(".tmp-*"))


def test_newer_damaged_ones_make_room_and_never_push_out_the_whole(tmp_path: Path) -> None:
    model, optimizer = trained()
    for step in (1, 10, 20):
        checkpoint.save(tmp_path, model, optimizer, state(step), keep=3)
    for step in (10, 20):
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("")
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "step-00000001"
    for step in (5, 6):
        path = checkpoint.save(tmp_path, model, optimizer, state(step), keep=2)
        assert checkpoint.newest(tmp_path) == (path, [])
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-00000006", "step-00000005"]


def test_nothing_whole_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = checkpoint.save(tmp_path, model, optimizer, state(1), keep=2)
    (path / "state.json").write_text("")
    with pytest.raises(
        UserError, match=r"no checkpoint in .* is whole \(step-00000001\): restore one, or remove"
    ):
        checkpoint.newest(tmp_path)


def test_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = checkpoint.save(tmp_path, model, optimizer, state(1), keep=2)
    with pytest.raises(UserError, match="does not fit this model") as error:
        checkpoint.load(path, nn.Linear(4, 9))
    assert "\n" not in str(error.value)
    (path / "state.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(UserError, match=r"state.json cannot be read"):
        checkpoint.read_state(path)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    model, optimizer = trained()
    path = checkpoint.save(tmp_path, model, optimizer, state(1), keep=2)
    assert {p.name for p in path.iterdir()} == {*checkpoint.FILES, "SHA256SUMS", "COMPLETE"}
    for name in checkpoint.FILES[:2]:
        # safetensors: eight bytes of header length, then JSON
        assert (path / name).read_bytes()[8:9] == b"{"
