"""The log of a run: files that are closed when it fails, notes of every rank, what a line counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runs import quiet

from turbomim.train.folder.log import Record, RunLog, line_of
from turbomim.train.settings.config import Config


def test_a_log_forgets_its_files_when_a_run_fails(tmp_path: Path) -> None:
    log = RunLog(tmp_path, quiet(), config=Config())
    with pytest.raises(KeyError), log.open(0):
        raise KeyError
    # a closed file would raise
    log.say("after")
    assert "after" not in (tmp_path / "train.log").read_text()


def test_notes_of_every_rank_come_into_the_log_once(tmp_path: Path) -> None:
    first, second = (RunLog(tmp_path, quiet(), config=Config(), rank=rank, world=2) for rank in (0, 1))
    with first.open(0), second.open(0):
        for log in (first, second, second):
            log.note("x.tar:7 cannot be decoded")
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        "rank 0: x.tar:7 cannot be decoded", "rank 1: x.tar:7 cannot be decoded",
    ]  # fmt: skip
    # on another machine the folder may not be there
    RunLog(tmp_path / "nowhere", quiet(), config=Config(), rank=1, world=2).note("said on the terminal alone")


def test_a_log_line_counts_what_was_replaced() -> None:
    record: Record = {
        "step": 1, "steps": 2, "epoch": 0.5, "loss": 1.0, "lr": 1e-3, "grad_norm": 1.0, "img_per_s": 9.0,
        "img_per_s_per_gpu": 9.0, "data_wait_pct": 0.0, "memory_gib": 1.0, "skipped": 0, "replaced": 1,
        "replaced_total": 3, "eta_s": 1.0,
    }  # fmt: skip
    assert "  replaced 3  " in line_of(record), "of the whole run"
