"""Tensors in a file: the bytes that safetensors writes, with the usual mode, whole or as it was."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors import SafetensorError
from tests.pipeline.making.test_pack import contents

from turbomim.pipeline.system import safetensors_file
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.safetensors_file import save_tensors, write_safetensors

ARRAYS = {"features": np.arange(6, dtype=np.float32).reshape(2, 3), "labels": np.array([3, -1])}
TENSORS = {name: torch.from_numpy(array) for name, array in ARRAYS.items()}


@pytest.mark.parametrize("metadata", [None, {"made": "{}"}])
@pytest.mark.parametrize("writer", [write_safetensors, save_tensors])
def test_the_bytes_are_those_of_safetensors(
    tmp_path: Path, writer: Callable[..., None], metadata: dict[str, str] | None
) -> None:
    """Of torch's tensors and of numpy's arrays alike; the file has the mode of any other."""
    writer(tmp_path / "file", TENSORS, metadata)
    safetensors.numpy.save_file(ARRAYS, tmp_path / "theirs", metadata=metadata)
    (tmp_path / "ours").write_text("")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "ours").stat().st_mode


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is said with the bytes needed, as Rust numbers it; an interruption goes on."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    full = SafetensorError(f"Error while serializing: I/O error (os error {errno.ENOSPC})")
    for cause, seen, words in (
        (full, UserError, r"No space left on device: 40 bytes needed, [\d,]+ free"),
        (SafetensorError("odd\nwords"), UserError, "odd words; check the permissions"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ):

        def fail(*_: object, cause: BaseException = cause, **__: object) -> None:
            raise cause

        monkeypatch.setattr(safetensors_file, "save_file", fail)
        with pytest.raises(seen, match=words):
            write_safetensors(path, TENSORS)
        assert contents(tmp_path) == {"file": b"old"}
    monkeypatch.setattr(safetensors_file, "save_file", lambda *_, **__: fail(cause=full))
    with pytest.raises(OSError) as raised:
        save_tensors(path, TENSORS)
    assert raised.value.errno == errno.ENOSPC and raised.value.strerror == os.strerror(errno.ENOSPC)
