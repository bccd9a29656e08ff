"""Files to import that are made to harm, or are none: one line, nothing run, nothing left behind.

Planted bugs and the test that fails on each: `torch.load` with `weights_only=False`, at once or where the
safe way fails, and eval among what is called (`test_a_pickle_that_would_run_code_does_not`); an archive whose
entries nobody looks at (`test_an_archive_that_grows_is_refused`); names, sizes or kinds of tensors unchecked
(`test_files_that_are_no_checkpoint_are_refused`); only some errors of a damaged pickle caught
(`test_a_file_cut_short_is_refused`); pipes opened (`test_no_file_a_folder_and_a_pipe_are_refused`).
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.calls import call
from tests.train.folder.test_hostile_checkpoints import HEADERS, Evil
from tests.train.foreign.imports import import_file, imported, same
from tests.train.foreign.names import DECODER, ENCODER, weights

WHOLE = weights(ENCODER + DECODER)


pytestmark = pytest.mark.usefixtures("here")


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, *parts: str
) -> None:
    """The import ends as one printable line with these parts, and leaves no run and nothing else."""
    before = set(os.listdir())
    assert call(monkeypatch, "import", file, "--from", "mae", "--run.name", "r") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"turbomim: {file}") and said.count("\n") == 1 and "Traceback" not in said
    assert said[:-1].isprintable() and len(said) < 600
    assert all(part in said for part in parts), said
    assert set(os.listdir()) == before


def content(tree: object, *, new: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(tree, out, _use_new_zipfile_serialization=new)
    return out.getvalue()


@pytest.mark.parametrize("where", ["beside", "among", "as the file", "old format", "bare pickle"])
@pytest.mark.parametrize("what", ["os.system", "eval", "exec", "nested load"])
def test_a_pickle_that_would_run_code_does_not(
    where: str, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = Path("marker").resolve()
    calls: dict[str, tuple[Callable[..., Any], str]] = {
        "os.system": (os.system, f"touch {marker}"),
        "eval": (eval, f"open({str(marker)!r}, 'w')"),
        "exec": (exec, f"open({str(marker)!r}, 'w')"),
        "nested load": (eval, f"__import__('os').system('touch {marker}')"),
    }
    evil = Evil(*calls[what])
    trees = {"among": {"model": {**WHOLE, "x": evil}}, "as the file": evil}
    tree = trees.get(where, {"model": WHOLE, "args": evil})
    data = pickle.dumps(evil, 2) if where == "bare pickle" else content(tree, new=where != "old format")
    Path("evil.pth").write_bytes(data)
    name = f"{'posix' if what == 'os.system' else '__builtin__'}.{calls[what][0].__name__}"
    if where in ("beside", "old format"):
        assert import_file(monkeypatch, "evil.pth", "mae") == 0
        assert f"passed over, nothing of it ran: {name}\n" in capsys.readouterr().out
        same(imported(), WHOLE)
    else:
        words = {
            "among": f"'x' is of a kind that no weight has, {name}",
            "as the file": f"by name; passed over, nothing of it ran: {name}: where it was made, save the "
            "weights alone",
            "bare pickle": "torch.save's mark is not at its beginning",
        }
        refused(monkeypatch, capsys, "evil.pth", words[where])
    assert not marker.exists()
    # the control: it does harm where it is unpickled
    if where == "bare pickle":
        pickle.loads(data)
    else:
        torch.load(io.BytesIO(data), weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("new", [True, False])
def test_a_file_cut_short_is_refused(
    share: float, new: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = content({"model": WHOLE}, new=new)
    Path("cut.pth").write_bytes(data[: int(share * len(data))])
    refused(monkeypatch, capsys, "cut.pth", "again")


@pytest.mark.parametrize("seed", range(30))
def test_flipped_bytes_are_refused_or_harmless(
    seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage anywhere in the description ends in a line, or in a run whose numbers are finite."""
    random = torch.Generator().manual_seed(seed)
    small = content({"model": {f"a{n}": torch.ones(2) for n in range(20)}}, new=seed % 2 == 0)
    data = bytearray(small)
    for place in torch.randint(0, len(data), (20,), generator=random).tolist():
        data[place] ^= 1 << (place % 8)
    Path("flipped.pth").write_bytes(data)
    refused(monkeypatch, capsys, "flipped.pth")


FILES = {
    "nothing": (b"", "begins with b''"),
    "random": (bytes(range(256)) * 40, "no checkpoint: it begins with"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "a web page: download the file itself"),
    "a page after a line": (b"\n  <html>", "a web page"),
    "a list": (content([torch.ones(2)]), "holds no weights"),
    "a number": (content(3), "holds no weights"),
    "no tensors": (content({"model": {"a": 1}}), "holds no weights"),
    "a wrapper in a wrapper": (content({"model": {"model": WHOLE}}), "holds no weights"),
    "a text among weights": (content({"model": {**WHOLE, "x": "y"}}), "'x' is a str among the weights"),
    "a number for a name": (content({"model": {**WHOLE, 3: torch.ones(1)}}), "'3' is no tensor's name"),
    "a name with a line": (content({"model": {"a\nturbomim: done": torch.ones(1)}}), "is no tensor's name"),
    "a name with an escape": (content({"model": {"\x1b[2J": torch.ones(1)}}), "is no tensor's name"),
    "a long name": (content({"model": {"a" * 10**5: torch.ones(1)}}), "is no tensor's name"),
    "sparse": (content({"model": {"a": torch.eye(3).to_sparse()}}), "of a kind that no weight has"),
    "meta": (content({"model": {"a": torch.ones(3, device="meta")}}), "of a kind that no weight has"),
    "complex": (content({"model": {"a": torch.ones(3, dtype=torch.complex64)}}), "of a kind"),
    "expanded": (content({"model": {"a": torch.ones(1).expand(2**40)}}), "larger than its"),
    "deep": (b"\x80\x02" + b"}\x58\x01\x00\x00\x00a" * 100_000 + b"}" + b"s" * 100_000 + b".", "again"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_checkpoint_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, words = FILES[name]
    Path("file.pth").write_bytes(data)
    refused(monkeypatch, capsys, "file.pth", words)


@pytest.mark.parametrize("header", HEADERS)
def test_bad_safetensors_are_refused(
    header: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.safetensors").write_bytes(HEADERS[header])
    refused(monkeypatch, capsys, "bad.safetensors", "")


def test_a_pickle_named_safetensors_is_not_unpickled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("evil.safetensors").write_bytes(content(Evil(os.system, "touch marker")))
    refused(monkeypatch, capsys, "evil.safetensors", "cannot be read")


def test_no_file_a_folder_and_a_pipe_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder.pth").mkdir()
    os.mkfifo("pipe.pth")
    for name in ("none.pth", "folder.pth", "pipe.pth", "none.safetensors"):
        refused(monkeypatch, capsys, name, "is not a file")


def rezipped(compression: int, grow: int = 0) -> bytes:
    """A checkpoint packed anew, its description with so many blanks at the end."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content({"model": WHOLE}))) as old,
        zipfile.ZipFile(out, "w", compression) as new,
    ):
        for entry in old.infolist():
            new.writestr(
                entry.filename, old.read(entry) + b" " * (grow if "data.pkl" in entry.filename else 0)
            )
    return out.getvalue()


def test_an_archive_that_grows_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bomb.pth").write_bytes(rezipped(zipfile.ZIP_DEFLATED, grow=10**8))
    refused(monkeypatch, capsys, "bomb.pth", "a compressed archive")


def test_a_directory_that_claims_more_than_the_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(content({"model": {"a": torch.ones(4)}}))
    # sizes of the first entry in the table of contents
    place = data.index(b"PK\x01\x02") + 20
    data[place : place + 8] = struct.pack("<II", 2**31, 2**31)
    Path("liar.pth").write_bytes(data)
    refused(monkeypatch, capsys, "liar.pth", "")
