"""Importing in tests: a folder of its own, a file, the imported tensors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tests.calls import call
from torch import Tensor


def save(tree: object, name: str = "file.pth") -> str:
    """Write a checkpoint; its name."""
    torch.save(tree, name)
    return name


def imported(name: str = "r") -> dict[str, Tensor]:
    """The tensors that a run began with."""
    found: dict[str, Tensor] = load_file(f"runs/{name}/ckpt/step-00000000/model.safetensors")
    return found


def import_file(monkeypatch: pytest.MonkeyPatch, file: str, form: str, *more: str) -> int:
    """`turbomim import` of a file as run r; the exit code."""
    return call(monkeypatch, "import", file, "--from", form, "--run.name", "r", *more)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Names and bits."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
