"""An --out that cannot be written, and a FILE that is no checkpoint: one line, with where and the remedy.

Planted, each seen to fail the test named: a folder made without a look at what is there, a system's error let
through (`test_a_place_that_cannot_be_written_is_one_line`); the picture drawn before the numbers are written
(`test_a_picture_that_fails_costs_no_numbers`); the system's number in the message, the folder of a failed
export left behind (`test_a_full_disk_is_one_line`); a FILE read as a run folder
(`test_a_file_that_is_no_checkpoint_is_told_as_eval_tells_it`).
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from tests.calls import call
from tests.finetuned import make_finetuning
from tests.runs import config_for, quiet

from turbomim.pipeline.system.durable import make_folder, write_error
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.analyze.result import TextTable, write_analysis
from turbomim.train.pretrain.pretrain import pretrain

# what a command is given beside --out, and the file or folder it is to write
COMMANDS = {
    "analyze": ("analyze avgdist --size 32 --units 8 --samples 2 --ratios 0.5", ""),
    "report": ("report RUN", "r.html"),
    "compare": ("compare RUN TWIN", "c.png"),
    "export": ("export RUN --to safetensors", ""),
    "embed": ("embed RUN DATA", "e.npz"),
    "predict": ("predict TUNED DATA", "p.csv"),
}


@pytest.fixture(scope="module")
def run(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of a tiny model, and beside it a copy, named twin, and a fine-tuning, named tuned."""
    settings = {"epochs": 0.5, "warmup_epochs": 0}
    folder = pretrain(
        config_for(tiny_split.folder, tmp_path_factory.mktemp("runs"), optim=settings), console=quiet()
    ).folder
    shutil.copytree(folder, folder.parent / "twin")
    make_finetuning("mae", folder.parent)
    return folder


def words_of(command: str, run: Path, data: Path, out: Path) -> list[str]:
    """A command of COMMANDS that writes to, or into, a place."""
    words, file = COMMANDS[command]
    places = {"RUN": run, "TWIN": run.parent / "twin", "TUNED": run.parent / "tuned", "DATA": data}
    return [*(str(places.get(word, word)) for word in words.split()), "--out", str(out / file)]


@pytest.mark.parametrize("place", ["a file", "below a file", "not allowed"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_one_line(
    command: str,
    place: str,
    run: Path,
    trees: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "locked").mkdir(mode=0o500)
    # nobody may make a folder in /proc, not even root
    locked = tmp_path / "locked" / "in" if os.geteuid() else Path("/proc/nowhere")
    out = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "in", "not allowed": locked}[
        place
    ]
    assert call(monkeypatch, *words_of(command, run, trees, out)) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("turbomim: ") and len(err.splitlines()) == 1 and "Errno" not in err
    assert str(out) in err or str(out.parent) in err
    assert re.search("give another|choose another|must be a folder", err), "the remedy"
    assert place == "not allowed" or re.search("'[^']*file' is a file|must be a folder", err), "what is wrong"
    assert (tmp_path / "file").read_text() == "kept" and len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("b"))
    with pytest.raises(UserError, match=r"a/b': Permission denied; check the permissions, or choose another"):
        make_folder(tmp_path / "a" / "b")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(
    command: str,
    run: Path,
    trees: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out"
    words = words_of(command, run, trees, out)
    # no file beyond this, as of a disk that is full
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        code = call(monkeypatch, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capsys.readouterr().err
    assert code == 1 and len(err.splitlines()) == 1
    assert "File too large" in err and "free some space" in err and f"'{out}" in err
    assert "rrno" not in err and "os error" not in err
    left = [path.name for path in out.iterdir()] if out.exists() else []
    # numbers are there before the picture, and nothing half written is
    assert left == (["avgdist.json"] if command == "analyze" else [])
    assert out.exists() == (command != "export")


def test_another_librarys_error_is_told_by_its_number(tmp_path: Path) -> None:
    error = RuntimeError(f"I/O error: whatever (os error {errno.ENOSPC})")
    said = str(write_error(tmp_path / "not" / "there", error, needed=1234))
    assert "No space left on device: 1,234 bytes needed" in said and "os error" not in said
    assert "check the permissions" in str(write_error(tmp_path, RuntimeError("odd\nwords")))


def test_a_picture_that_fails_costs_no_numbers(tmp_path: Path) -> None:
    def draw() -> Figure:
        raise ValueError("no picture")

    table = TextTable(title="odd", columns=["one"], rows=[["1"]])
    with pytest.raises(ValueError, match="no picture"):
        write_analysis(tmp_path, "odd", settings={}, results={"one": 1}, table=table, draw=draw)
    assert json.loads((tmp_path / "odd.json").read_text())["results"] == {"one": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["odd.json"]


def test_a_file_that_is_no_checkpoint_is_told_as_eval_tells_it(
    run: Path,
    trees: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "x.pth").write_text("hello")
    splits = ["--train", str(trees), "--test", str(trees)]
    data = ["--data", str(trees), "--images", "5", "--out", str(tmp_path / "o")]
    commands = {
        "eval knn": splits,
        "analyze frequency": data,
        "analyze flatness": data,
        "analyze layers": [],
        "analyze robustness": splits,
    }
    said = {}
    for command, words in commands.items():
        assert call(monkeypatch, *command.split(), str(tmp_path / "x.pth"), *words) == 1
        said[command] = capsys.readouterr().err
    assert "x.pth is no checkpoint" in said["eval knn"] and set(said.values()) == {said["eval knn"]}
    # one that is a checkpoint has features, and neither a loss nor a log
    assert call(monkeypatch, "export", str(run), "--to", "timm", "--out", str(tmp_path / "e")) == 0
    (file,) = (tmp_path / "e").glob("*.safetensors")
    for command in ("analyze flatness", "analyze layers"):
        assert call(monkeypatch, *command.split(), str(file), *commands[command]) == 1
        assert f"{file} is a checkpoint and no run" in capsys.readouterr().err
    assert call(monkeypatch, "analyze", "frequency", str(file), str(run), *data, "--device", "cpu") == 0
    found = json.loads((tmp_path / "o" / "frequency.json").read_text())["results"]
    of_file, of_run = (found[str(path)] for path in (file, run))
    assert of_file["step"] is None and of_file["blocks"] == of_run["blocks"]
