"""Checkpoints made to harm: whatever is in the files, nothing runs and nothing outside is touched.

The checksums are right, as whoever made the files made those too.  Planted bugs and the test that fails on
each: `torch.load(weights_only=False)` as a way out where safetensors refuses fails
`test_a_pickle_is_refused_and_does_not_run`; JSON whose depth is not caught fails
`test_bad_states_are_refused`; links that are followed fail `test_links_are_not_followed`; a check of numbers
left out fails `test_numbers_that_are_not_finite_are_refused`.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import ROOT
from tests.train.folder.test_checkpoint import save, state, trained

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.sha256 import file_sha256
from turbomim.train.folder import checkpoint
from turbomim.train.folder.checkpoint import FILES


class Evil:
    """What touches a file when it is unpickled."""

    def __init__(self, call: Callable[..., Any], text: str) -> None:
        self.call, self.text = call, text

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return self.call, (self.text,)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A good checkpoint, alone in its folder."""
    model, optimizer = trained()
    return save(tmp_path / "ckpt", model, optimizer, state(1), keep=2)


def sign(folder: Path) -> None:
    """Make the checksums right."""
    sums = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in FILES)
    (folder / "SHA256SUMS").write_text(sums)


def open_all(folder: Path) -> None:
    """What a resume does with a checkpoint."""
    found, _ = checkpoint.newest(folder.parent)
    assert found == folder
    model, optimizer = trained(seed=1, steps=0)
    checkpoint.read_state(found)
    checkpoint.load(found, model, optimizer)


def refused(folder: Path, words: str) -> None:
    sign(folder)
    with pytest.raises(UserError, match=words) as error:
        open_all(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_the_good_one_opens(whole: Path) -> None:
    sign(whole)
    open_all(whole)


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("how", ["os.system", "eval", "torch.save", "nested"])
def test_a_pickle_is_refused_and_does_not_run(whole: Path, tmp_path: Path, name: str, how: str) -> None:
    marker = tmp_path / "marker"
    evil = Evil(os.system, f"touch {marker}")
    if how == "eval":
        evil = Evil(eval, f"open({str(marker)!r}, 'w')")
    if how == "nested":
        inner = tmp_path / "inner.pt"
        torch.save(evil, inner)
        evil = Evil(eval, f"__import__('torch').load({str(inner)!r}, weights_only=False)")
    if how == "torch.save":
        torch.save({"weight": evil}, whole / name)
    else:
        (whole / name).write_bytes(pickle.dumps(evil))
    refused(whole, rf"{name} cannot be read")
    assert not marker.exists()
    # the control: it does harm where it is unpickled
    content = (whole / name).read_bytes()
    if how == "torch.save":
        torch.load(io.BytesIO(content), weights_only=False)
    else:
        pickle.loads(content)
    assert marker.exists()


def with_header(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "empty file": b"",
    "length beyond the file": with_header(b"{}", length=10_000),
    "length of 2^63": with_header(b"{}", length=2**63),
    "no JSON": with_header(b"[[[["),
    "nested 100,000 deep": with_header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "overlapping": with_header(
        json.dumps({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}).encode(), bytes(12)
    ),
    "beyond the data": with_header(json.dumps({"a": tensor(0, 2**40, [2**38])}).encode(), bytes(8)),
    "backwards": with_header(json.dumps({"a": tensor(8, 0, [2])}).encode(), bytes(8)),
    "shape that overflows": with_header(json.dumps({"a": tensor(0, 0, [2**62, 2**62])}).encode()),
    "negative": with_header(json.dumps({"a": tensor(-4, 4, [2])}).encode(), bytes(8)),
    "unknown dtype": with_header(json.dumps({"a": tensor(0, 8, [2], "object")}).encode(), bytes(8)),
    "a hole": with_header(json.dumps({"a": tensor(4, 8, [1])}).encode(), bytes(8)),
}


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("header", HEADERS)
def test_bad_headers_are_refused(whole: Path, name: str, header: str) -> None:
    (whole / name).write_bytes(HEADERS[header])
    refused(whole, rf"{name} cannot be read")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FILES[:2])
def test_numbers_that_are_not_finite_are_refused(whole: Path, name: str, value: float) -> None:
    tensors = load_file(whole / name)
    next(iter(tensors.values())).view(-1)[0] = value
    save_file(tensors, whole / name)
    refused(whole, "holds numbers that are not finite")


STATES = {
    "nested 200,000 deep": b"[" * 200_000,
    "object nested": b'{"a":' * 50_000,
    "2 MB": b'{"step": "' + b"x" * 2_000_000 + b'"}',
    "a list": b"[1, 2]",
    "text for the step": b'{"step": "1", "position": 8, "fingerprint": "", "config": {}, "versions": {}}',
    "a negative step": b'{"step": -1, "position": 8, "fingerprint": "", "config": {}, "versions": {}}',
    "a huge step": b'{"step": 1e400, "position": 8, "fingerprint": "", "config": {}, "versions": {}}',
    "4,000 digits": b'{"step": '
    + b"9" * 5000
    + b', "position": 8, "fingerprint": "", "config": {}, "versions": {}}',
    "true": b'{"step": true, "position": 8, "fingerprint": "", "config": {}, "versions": {}}',
    "no UTF-8": b'{"step": "\xff"}',
    "another key": b'{"__class__": "os.system"}',
}


@pytest.mark.parametrize("content", STATES)
def test_bad_states_are_refused(whole: Path, content: str) -> None:
    (whole / "state.json").write_bytes(STATES[content])
    refused(whole, "state.json cannot be read")


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS", "COMPLETE"])
def test_links_are_not_followed(whole: Path, tmp_path: Path, name: str) -> None:
    """A link that gives the very bytes that belong there is still not taken, and what it points at stays."""
    outside = tmp_path / "outside"
    (whole / name).rename(outside)
    (whole / name).symlink_to(outside)
    content = outside.read_bytes()
    with pytest.raises(UserError, match="is whole"):
        open_all(whole)
    model, optimizer = trained()
    save(whole.parent, model, optimizer, state(1), keep=2)
    assert outside.read_bytes() == content
    open_all(whole)


def test_a_link_to_a_folder_is_not_followed_and_not_emptied(whole: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    whole.rename(outside)
    whole.symlink_to(outside)
    (whole.parent / ".tmp-left").symlink_to(outside)
    with pytest.raises(UserError, match="is whole"):
        open_all(whole)
    model, optimizer = trained()
    for step in (1, 2, 3, 4):
        save(whole.parent, model, optimizer, state(step), keep=2)
    assert checkpoint.is_whole(outside) and not (whole.parent / ".tmp-left").exists()


def test_a_pipe_does_not_hang(whole: Path) -> None:
    (whole / FILES[0]).unlink()
    os.mkfifo(whole / FILES[0])
    with pytest.raises(UserError, match="is whole"):
        open_all(whole)


def test_names_and_shapes_of_another_model_are_refused(whole: Path) -> None:
    moments = load_file(whole / FILES[1])
    for damaged in (
        {**moments, "../../x/exp_avg": torch.zeros(1)},
        {name: moment for name, moment in moments.items() if name != "0.weight/step"},
        {**moments, "0.weight/exp_avg": torch.zeros(1)},
        {**moments, "0.weight/exp_avg": moments["0.weight/exp_avg"].double()},
    ):
        save_file(damaged, whole / FILES[1])
        refused(whole, "optimizer belongs to another model")
    save_file({"0.weight": torch.zeros(8, 4)}, whole / FILES[0])
    refused(whole, "does not fit this model")


def test_no_code_of_ours_unpickles_files() -> None:
    """torch.load only with weights_only=True, and no pickle, eval or exec at all."""
    for stage in ("pipeline", "kernels", "train"):
        for path in (ROOT / stage).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    assert not {alias.name for alias in node.names} & {
                        "pickle",
                        "dill",
                        "joblib",
                        "marshal",
                    }, path
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), path
                    if called == "torch.load":
                        given = {key.arg: ast.unparse(key.value) for key in node.keywords}
                        assert given.get("weights_only") == "True", path
