"""Shards that stay open share one budget, below the limit of the process; too many open files are one line.

Planted, each seen to fail the test named: a budget for each split instead of one for all
(`test_a_run_of_many_shards_keeps_below_a_low_limit`, `test_all_splits_share_one_budget`); a limit that is
left as it was (`test_a_command_may_open_what_the_system_allows`).
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.calls import call
from tests.pipeline.reading.test_shard_files import open_tars
from tests.runs import attempt, config_for, finish, launch, records

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.system import open_files
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.commands import cli
from turbomim.train.settings.config import Config

# of a run that keeps no shard open some 30 files are open
LOW = 64


def attempt_below(config: Config, limit: int) -> None:
    """An attempt in a process that may open few files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    attempt(config)


def test_a_run_of_many_shards_keeps_below_a_low_limit(photo_folder: Path, tmp_path: Path) -> None:
    """Training, the held-out loss and scores read 33 shards each, while one another's are open."""
    for name in ("train", "heldout"):
        make_shards(photo_folder, tmp_path / name, ShardSettings(shard_size=1))
    data = {"heldout": str(tmp_path / "heldout"), "readers": 2}
    config = config_for(
        tmp_path / "train", tmp_path, data=data, run={"eval_every": 1}, optim={"epochs": 2},
        eval={"every_epochs": 0.5, "samples": 33},
    )  # fmt: skip
    code = finish(launch(attempt_below, config, LOW))
    said = tmp_path / "said-0"
    assert code == 0, said.read_text() if said.exists() else code
    assert records(tmp_path / "r")[-1]["heldout_loss"] > 0


def test_all_splits_share_one_budget(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "budget", lambda: 3)
    first_of_shard = [int(np.argmax(tiny_split.index.shard_N == shard)) for shard in range(4)]
    one, other = ShardFiles(tiny_split), ShardFiles(tiny_split)
    assert open_tars() == 0
    for sample in first_of_shard * 2:
        for files in (one, other):
            assert read_samples(tiny_split, files, np.array([sample])).labels_B.size == 1
            assert 1 <= open_tars() <= 3
    one.close()
    assert 1 <= open_tars() <= 2
    other.close()
    assert open_tars() == 0


def test_the_budget_follows_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, files in ((1024, 512), (64, 32), (1, 1), (10**6, open_files.MOST), (-1, open_files.MOST)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert open_files.budget() == files


def test_a_command_may_open_what_the_system_allows() -> None:
    """In a process of its own: the limit is one of the process."""
    code = (
        "import resource, sys; from turbomim.train.commands.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)); sys.argv = ['turbomim', '--version']\n"
        "main(); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[1] == "(200, 200)", done.stderr


def refusing(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/a/file")


@pytest.mark.parametrize(("number", "words"), [(errno.EMFILE, "`ulimit -n "), (errno.ENFILE, "file-max")])
def test_too_many_open_files_are_one_line(
    tiny_split: Split,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    words: str,
) -> None:
    files = ShardFiles(tiny_split)

    def full(*_: object) -> int:
        raise refusing(number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(UserError) as caught:
            read_samples(tiny_split, files, np.array([0]))
    text = str(caught.value)
    assert "oo many open files" in text and words in text and str(tiny_split.folder) in text
    assert "shard verify" not in text and "\n" not in text

    def wrapped(argv: list[str]) -> None:
        try:
            raise refusing(number)
        except OSError as error:
            raise UserError(f"cannot read it: {error.strerror}") from error

    for command in (full, wrapped):
        monkeypatch.setattr(cli, "import_and_call", lambda file, argv, command=command: command(argv))
        assert call(monkeypatch, "doctor") == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith("turbomim: ") and words in said
