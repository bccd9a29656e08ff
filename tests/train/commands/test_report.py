"""`turbomim report` as a user types it: one line for what cannot be reported.

Planted bug: a pipe opened as a settings file, for ever, fails `test_what_cannot_be_reported_is_one_line`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.calls import assert_one_line, call
from tests.train.report.conftest import bare  # noqa: F401


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "report needs one or more run folders"),
        (["/nowhere"], 1, "/nowhere is not a run: it does not exist"),
        (["FILE"], 1, "is not a run"),
        (["PIPE"], 1, "is not a run"),
        (["TUNED"], 1, "is a fine-tuning, not a pre-training: its scores are in"),
        (["RUN", "RUN"], 2, "is given more than once"),
        (["RUN", "--out", "page.txt"], 2, "--out page.txt: must be a file whose name ends in .html"),
        (["RUN", "--out", "FOLDER"], 2, "must be a file whose name ends in .html"),
        (["RUN", "--benchmarks", "/nowhere"], 1, "--benchmarks /nowhere: is not a folder"),
        (["RUN", "--benchmark", "x"], 2, "did you mean --benchmarks?"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    words: list[str],
    code: int,
    message: str,
    bare: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.yaml").write_text("finetune: {layer_decay: 0.65}\n")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.yaml")
    places = {
        "RUN": bare,
        "FILE": tmp_path / "file",
        "PIPE": tmp_path / "pipe",
        "TUNED": tmp_path / "tuned",
        "FOLDER": tmp_path / "folder.html",
    }
    assert call(monkeypatch, "report", *(str(places.get(word, word)) for word in words)) == code
    assert_one_line(capsys, message)
    assert not (bare / "report.html").exists()


def test_a_page_of_several_runs_is_nobodys_own(
    bare: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Planted, and seen to fail: the first run's report.html as the default."""
    others = [tmp_path / name for name in "bcdef"]
    for other in others:
        shutil.copytree(bare, other)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "report", "bare", "b/") == 0
    assert capsys.readouterr().out.startswith("report-bare-b.html: ")
    assert (tmp_path / "report-bare-b.html").exists() and not (bare / "report.html").exists()
    assert call(monkeypatch, "report", *(other.name for other in others)) == 0
    assert (tmp_path / "report-b-c-d-e-and-1-more.html").exists()
    assert call(monkeypatch, "report", "bare") == 0
    assert (bare / "report.html").exists()
