"""File systems that lack locks, syncs, modes or renames, and disks that are full at the last moment.

Each was seen to fail: a lock that is taken for another's where there are none, and no way on without
(`test_a_file_system_without_locks`); a sync or a mode that must be (`test_a_file_system_that_cannot_sync`);
an error of a close or a rename that is blamed on the permissions
(`test_what_is_refused_at_the_end_is_one_line`).
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runs import status
from tests.train.terminal.test_streams import TINY

from turbomim.pipeline.tars.split import Split, open_split

COMMANDS = """
import contextlib, io, json, sys
from turbomim.train.commands.cli import main

answers = []
for words in json.load(sys.stdin):
    sys.argv, code = ["turbomim", *words], 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    answers.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of refuse.c."""
    library = tmp_path_factory.mktemp("shim") / "refuse.so"
    source = Path(__file__).parent / "refuse.c"
    # a machine that runs the tests has g++
    subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def refused(
    shim: Path, call: str, number: int, below: Path, *commands: tuple[str, ...]
) -> list[tuple[int, str, str]]:
    """Exit code, output and complaints of each command where a call is refused below a folder."""
    env = {**os.environ, "LD_PRELOAD": str(shim), "REFUSED": call, "REFUSED_ERRNO": str(number)}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps(commands),
        env={**env, "REFUSED_BELOW": str(below)},
        cwd=below,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answers: list[tuple[int, str, str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def pretraining(trees: Path, *more: str) -> tuple[str, ...]:
    return ("pretrain", "demo", "--data.path", str(trees), *TINY.split(), *more)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK], ids=os.strerror)
def test_a_file_system_without_locks(
    number: int, shim: Path, photo_folder: Path, trees: Path, tmp_path: Path
) -> None:
    make = ("shard", "make", str(photo_folder), str(tmp_path / "d"), "--workers", "1")
    commands = [make, (*make, "--lock", "false")]
    if number == errno.ENOSYS:
        commands += [pretraining(trees), pretraining(trees, "--run.lock", "false")]
    answers = refused(shim, "flock", number, tmp_path, *commands)
    for (code, _, said), flag in zip(answers[::2], ("--lock false", "--run.lock false"), strict=False):
        assert code == 1 and said.count("\n") == 1, said
        assert "on a file system without locks" in said and os.strerror(number) in said and flag in said
        assert "another process: wait" not in said
    for code, _, said in answers[1::2]:
        assert code == 0, said
    assert open_split(tmp_path / "d").manifest.samples == 33
    if number == errno.ENOSYS:
        assert status(tmp_path / "runs" / "demo")["status"] == "done"
    assert not list(tmp_path.rglob("lock")), "nothing is left of what was refused"


@pytest.mark.parametrize(
    ("call", "number"),
    [("fsync_folder", errno.EINVAL), ("fsync", errno.ENOTSUP), ("fchmod", errno.EPERM)],
    ids=lambda value: value if isinstance(value, str) else errno.errorcode[value],
)
def test_a_file_system_that_cannot_sync(
    call: str, number: int, shim: Path, photo_folder: Path, trees: Path, tmp_path: Path
) -> None:
    run = str(tmp_path / "runs" / "demo")
    commands = [
        ("shard", "make", str(photo_folder), str(tmp_path / "d"), "--workers", "1"),
        pretraining(trees),
        ("export", run, "--to", "safetensors", "--out", str(tmp_path / "e")),
        ("embed", run, str(trees), "--out", str(tmp_path / "e.safetensors"), "--device", "cpu"),
        ("report", run, "--out", str(tmp_path / "r.html")),
    ]
    answers = refused(shim, call, number, tmp_path, *commands)
    assert [code for code, _, _ in answers] == [0] * len(commands), answers
    said = "".join(said for _, _, said in answers)
    assert said.count("cannot be told to put a new file on its disk") == (call != "fchmod"), "once a process"


@pytest.mark.parametrize(
    ("call", "number", "helps"),
    [
        ("close_written", errno.EDQUOT, "bytes needed"),
        ("close_written", errno.ENOSPC, "free some space"),
        ("fsync", errno.EDQUOT, "quota"),
        ("fsync", errno.EIO, "the disk, or the way to it, fails"),
        ("rename", errno.EBUSY, "another program has it open"),
        ("rename", errno.ETXTBSY, "another program has it open"),
    ],
    ids=lambda value: value if isinstance(value, str) else errno.errorcode[value],
)
def test_what_is_refused_at_the_end_is_one_line(
    call: str, number: int, helps: str, shim: Path, tiny_split: Split, tmp_path: Path
) -> None:
    """The old file stays whole, and nothing half written is beside it."""
    code = """
import pathlib, sys
from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.errors import UserError
try:
    write_durably(pathlib.Path(sys.argv[1]), b"new")
except UserError as error:
    print(error)
"""
    path = tmp_path / "file"
    path.write_text("old")
    env = {**os.environ, "LD_PRELOAD": str(shim), "REFUSED": call, "REFUSED_ERRNO": str(number)}
    env["REFUSED_BELOW"] = str(tmp_path)
    command = [sys.executable, "-c", code, str(path)]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert said.count("\n") == 1 and os.strerror(number) in said and helps in said, said
    assert "permissions" not in said
    assert path.read_text() == "old" and [other.name for other in tmp_path.iterdir()] == ["file"]
