"""Caches of users without a home, and caches that cannot be used: elsewhere, or one line with what helps.

Each was seen to fail: a home taken as it is told (`test_a_user_without_a_home`), a folder of others that is
trusted (`test_a_home_that_others_may_write_to_is_refused`), a cache that nobody tries before the step is
compiled (`test_a_cache_that_cannot_be_used_is_one_line_before_anything_starts`).
"""

from __future__ import annotations

import errno
import getpass
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.calls import call
from tests.pipeline.system.test_filesystems import shim  # noqa: F401
from tests.runs import config_for, quiet

from turbomim.pipeline.system.errors import UserError
from turbomim.train.commands import cli
from turbomim.train.commands.doctor import examine
from turbomim.train.machine.compiler import check_compile_caches, compile_caches
from turbomim.train.machine.home import ensure_home, home
from turbomim.train.machine.measurements import cache_folder
from turbomim.train.pretrain.pretrain import pretrain


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's number that no list has, without HOME; the temporary folder."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "TURBOMIM_CACHE_DIR", "XDG_CACHE_HOME"):
        # set first: what the code under test sets is undone then
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_user_without_a_home(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = nobody / f"turbomim-{os.getuid()}"
    assert cache_folder() == own / ".cache" / "turbomim" and home() == own
    assert call(monkeypatch, "recipes") == 0
    said = capsys.readouterr().err
    assert said == f"turbomim: user {os.getuid()} has no home: caches go to {own}; set HOME to keep them\n"
    assert os.path.expanduser("~/x") == str(own / "x") and getpass.getuser() == f"uid-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    ensure_home()
    assert capsys.readouterr().err == "", "it has one now"
    assert [path.name for path in nobody.iterdir()] == [own.name], "and no folder named ~"


def widened(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)


def linked(place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    place.symlink_to("elsewhere")


@pytest.mark.parametrize("plant", [widened, linked, Path.touch])
def test_a_home_that_others_may_write_to_is_refused(
    plant: Callable[[Path], None],
    nobody: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(nobody / f"turbomim-{os.getuid()}")
    assert call(monkeypatch, "recipes") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "set HOME to a folder of yours" in said


def test_a_cache_that_cannot_be_used_is_one_line_before_anything_starts(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match=r"file/below': .*; set TORCHINDUCTOR_CACHE_DIR to a folder of yours"):
        pretrain(config_for(trees, tmp_path / "runs", step={"compile": True}), console=quiet())
    assert not (tmp_path / "runs").exists()
    (check,) = [check for check in examine() if check.name == "compile cache"]
    assert check.status == "slow" and "TORCHINDUCTOR_CACHE_DIR" in check.advice


def test_the_caches_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "i"))
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    assert [folder for _, folder in compile_caches("cuda")] == [
        tmp_path / "i",
        tmp_path / ".triton" / "cache",
    ]
    check_compile_caches("cuda")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "t"))
    with pytest.raises(UserError, match="set TRITON_CACHE_DIR"):
        check_compile_caches("cuda")
    check_compile_caches("cpu")


def test_a_folder_that_may_not_run_programs(shim: Path, tmp_path: Path) -> None:  # noqa: F811
    code = """
from turbomim.pipeline.system.errors import UserError
from turbomim.train.machine.compiler import check_compile_caches
try:
    check_compile_caches("cpu")
except UserError as error:
    print(error)
"""
    said = {}
    for below in (tmp_path, tmp_path / "other"):
        env = {**os.environ, "LD_PRELOAD": str(shim), "REFUSED": "map_program", "TMPDIR": str(tmp_path)}
        env |= {"REFUSED_ERRNO": str(errno.EPERM), "REFUSED_BELOW": str(below)}
        env.pop("TORCHINDUCTOR_CACHE_DIR", None)
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        said[below] = done.stdout
    assert said[tmp_path / "other"] == ""
    assert said[tmp_path].count("\n") == 1 and "noexec" in said[tmp_path]
    assert f"'{tmp_path}' may not run" in said[tmp_path] and "set TORCHINDUCTOR_CACHE_DIR" in said[tmp_path]


def test_an_error_of_a_library_in_its_cache_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: str, argv: list[str]) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cli, "import_and_call", refuse)
    assert call(monkeypatch, "recipes") == 1
    said = capsys.readouterr().err
    assert "/x': Permission denied; set TORCHINDUCTOR_CACHE_DIR to a folder of yours; `turbomim" in said
    assert said.count("\n") == 1


def test_a_home_that_cannot_be_written_to(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container gives a bare number the home "/"."""
    monkeypatch.setenv("HOME", str(nobody / "not" / "there"))
    own = nobody / f"turbomim-{os.getuid()}"
    assert home() == own and call(monkeypatch, "recipes") == 0
    assert (
        f"cannot write to the home {nobody / 'not' / 'there'}: caches go to {own}" in capsys.readouterr().err
    )
