"""What helps is told by the system's own number, wherever the error comes out.

Each was seen to fail: a remedy that is said whatever the number (`test_the_remedy_fits_the_error`), a process
without descriptors that leaves photographs out (`test_no_photograph_is_left_out_for_want_of_descriptors`).
"""

from __future__ import annotations

import builtins
import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.calls import call

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system.durable import write_error
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import REMEDIES, explain
from turbomim.pipeline.tars.split import Split, open_split


def error_of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def failing(real: Callable[..., Any], part: str, number: int) -> Callable[..., Any]:
    """A function of a path, which the system refuses for files with that part in their name."""

    def call(path: Any, *arguments: Any, **named: Any) -> Any:
        if part in str(path):
            raise error_of(number)
        return real(path, *arguments, **named)

    return call


def test_the_remedy_fits_the_error(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each place that has a remedy of its own for files that are not there, or damaged."""
    said = [str(write_error(tmp_path / "x", error_of(errno.EMFILE)))]
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(os.open, ".tar", errno.EMFILE))
        with pytest.raises(UserError) as raised:
            read_samples(tiny_split, ShardFiles(tiny_split), np.array([0]))
        said.append(str(raised.value))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing(Path.read_bytes, ".idx", errno.EMFILE))
        with pytest.raises(UserError) as raised:
            open_split(tiny_split.folder)
        said.append(str(raised.value))
    for method, part, words in (
        ("open", "config.yaml", ("pretrain", "demo", "--config", str(tmp_path / "config.yaml"))),
        ("read_text", "config.yaml", ("show", str(tmp_path))),
        ("open", "x.pth", ("import", str(tmp_path / "x.pth"), "--from", "mae", "--run.name", "r")),
    ):
        (tmp_path / part).write_text("")
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for place in (Path, builtins):
                if hasattr(place, method):
                    patch.setattr(place, method, failing(getattr(place, method), part, errno.EMFILE))
            assert call(monkeypatch, *words) == 1
        said.append(capsys.readouterr().err)
    limit = f"no more than {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} files open here: raise that"
    for text in said:
        assert "Too many open files" in text and limit in text, text
        assert not any(word in text for word in ("permissions", "shard verify", "remake", "check the")), text


def test_no_photograph_is_left_out_for_want_of_descriptors(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtins, "open", failing(open, "tree_07", errno.EMFILE))
    with pytest.raises(UserError, match=r"tree_07.*Too many open files; a process may have"):
        make_shards(photo_folder, tmp_path / "d", workers=1)
    monkeypatch.setattr(builtins, "open", failing(open, "tree_07", errno.EIO))
    assert len(make_shards(photo_folder, tmp_path / "d", workers=1).bad) == 1


@pytest.mark.parametrize("number", REMEDIES)
def test_every_error_of_the_table_is_one_line(number: int, tmp_path: Path) -> None:
    text = str(write_error(tmp_path, error_of(number)))
    assert "\n" not in text and os.strerror(number) in text and "permissions" not in text and "{" not in text
    assert explain(RuntimeError(f"odd (os error {number})"), "usual").startswith(f"{os.strerror(number)}; ")


def test_an_error_that_the_table_lacks_has_the_usual_remedy() -> None:
    assert explain(error_of(errno.EACCES), "ask") == "Permission denied; ask"
    assert explain(RuntimeError("odd\nwords"), "ask") == "odd words; ask"
