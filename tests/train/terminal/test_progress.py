"""Long work in a pipe is not silent.

Planted bugs: no line where no bar can be drawn (`test_bytes_are_told_in_a_pipe`); a line at every call.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.runs import config_for

from turbomim.pipeline.tars.split import Split
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.terminal import progress


@pytest.mark.parametrize(("interval", "count"), [(0.0, 3), (60.0, 0)])
def test_bytes_are_told_in_a_pipe(
    interval: float, count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", interval)
    with progress.byte_bar() as told:
        for _ in range(3):
            told(1_000_000, 20, 4_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == count
    assert not lines or re.fullmatch(r"3\.0 MB of 4\.0 MB, [\d,]+ img/s", lines[-1])


@pytest.mark.parametrize("compiled", [True, False])
def test_a_run_says_that_it_compiles(
    compiled: bool,
    tiny_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.compile", lambda model, **options: model)
    settings = {"epochs": 1, "warmup_epochs": 0}
    pretrain(config_for(tiny_split.folder, tmp_path, optim=settings, step={"compile": compiled}))
    out = capsys.readouterr().out
    assert out.count("compiling the step: the first one takes a minute or so\n") == compiled
