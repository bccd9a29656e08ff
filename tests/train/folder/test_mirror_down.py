"""A mirror that is down, hangs, refuses or comes back: the run goes on, and says once what lacks.

Planted bugs and the test that fails on each: an older run that copies over a newer one,
`test_a_newer_mirror_that_comes_back_is_left_alone`, also where the mirror was taken and not listed,
`test_a_newer_one_that_could_not_be_listed_is_left_alone`; a place that failed before and is waited for as
any, `test_a_mirror_that_is_down_holds_up_no_end`.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runs import attempt, finish, killed_at_the_end, outcome, status, wait_for
from tests.train.folder.mirroring import (
    assert_mirrored,
    content,
    hurried,
    hurry,
    log,
    mirrored,
    refusal,
    said,
    start,
    there,
    when_down,
    write,
)

from turbomim.benchmarks.stores.weed import BAD, BUCKET, FULL, READ_ONLY, Keys, Weed, environment
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.place import Status
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.train.folder import mirror as module
from turbomim.train.folder.copied import whole_in
from turbomim.train.folder.from_mirror import take_from_mirror
from turbomim.train.folder.mirror import Mirror
from turbomim.train.loop.step import Step
from turbomim.train.settings.config import Config


def test_it_holds_up_no_step(trees: Path, tmp_path: Path, whole: Path) -> None:
    """A mirror that takes a file and does not come back: all steps are taken, and the end says what lacks."""
    config = mirrored(trees, tmp_path, tmp_path / "mirror")
    begun = time.monotonic()
    assert finish(start(stuck, config)) == 0
    assert time.monotonic() - begun < 60 and outcome(tmp_path / "r") == outcome(whole)
    told = (
        f"mirror {tmp_path}/mirror/r: step-00000021 is not there (it takes too long), but in {tmp_path}/r: "
    )
    assert log(config).count(told + "the same command copies what is missing") == 1
    assert status(tmp_path / "r")["status"] == "done"
    assert finish(start(hurried, config)) == 0
    assert_mirrored(config)


def stuck(config: Config) -> None:
    put = Folder.put

    def hang(self: Folder, name: str, *args: Any, **options: Any) -> str:
        if name.endswith("model.safetensors"):
            time.sleep(1000)
        return put(self, name, *args, **options)

    setattr(Folder, "put", hang)  # noqa: B010
    hurry()
    vars(module)["PATIENCE"] = 1.0
    attempt(config)


def test_down_from_the_start(trees: Path, tmp_path: Path, whole: Path) -> None:
    """With a checkpoint on the disk the run goes on; without one nobody knows what the mirror has."""
    flag = tmp_path / "down"
    config = mirrored(trees, tmp_path, tmp_path / "mirror")
    flag.touch()
    assert finish(start(when_down, config, flag)) == 1
    assert said(config) == (
        f"the mirror {tmp_path}/mirror/r cannot be used: nobody listens there; check the network; without it "
        "nobody knows what this run has there"
    )
    shutil.copytree(whole, tmp_path / "r", dirs_exist_ok=True)
    for step in sorted((tmp_path / "r" / "ckpt").glob("step-*"))[1:]:
        shutil.rmtree(step)
    assert finish(start(when_down, config, flag)) == 0
    assert outcome(tmp_path / "r") == outcome(whole)
    text = log(config)
    assert text.count(f"mirror {tmp_path}/mirror/r: nobody listens there") == 1
    assert text.count("step-00000021 is not there (nobody listens there; check the network)") == 1
    flag.unlink()
    assert finish(start(when_down, config, flag)) == 0
    assert_mirrored(config)


def test_down_in_the_middle(trees: Path, tmp_path: Path, whole: Path) -> None:
    """One line when it fails and one when it works again, then all is there."""
    flag = tmp_path / "down"
    config = mirrored(trees, tmp_path, tmp_path / "mirror")
    assert finish(start(down_in_between, config, flag)) == 0
    lines = [line.split("  ", 1)[1] for line in log(config).splitlines() if "  mirror " in line]
    of = f"mirror {tmp_path}/mirror/r"
    assert lines == [
        f"{of}: nobody listens there; check the network; the run goes on, and the mirror is tried again",
        f"{of} works again: all is there up to now",
    ]
    assert outcome(tmp_path / "r") == outcome(whole)
    assert_mirrored(config)


def down_in_between(config: Config, flag: Path) -> None:
    """Down from step 5 until step 15, each for as long as it takes to be noticed."""
    step, count = Step.__call__, 0

    def call(self: Step, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            flag.touch()
        if count == 15:
            while " tried again" not in log(config):
                time.sleep(0.01)
            flag.unlink()
        return step(self, *args)

    setattr(Step, "__call__", call)  # noqa: B010
    when_down(config, flag)


def test_a_newer_mirror_that_comes_back_is_left_alone(done: Config, tmp_path: Path, whole: Path) -> None:
    """An older disk goes on while the mirror is down: nothing is put over what is newer there."""
    flag = tmp_path / "down"
    shutil.rmtree(tmp_path / "r" / "ckpt" / "step-00000021")
    shutil.rmtree(tmp_path / "r" / "export")
    (tmp_path / "mirror" / "r" / "ckpt" / "step-00000021").rename(
        tmp_path / "mirror" / "r" / "ckpt" / "step-00000099"
    )
    before = content(done)
    flag.touch()
    assert finish(start(back_after_start, done, flag)) == 0
    assert "has step-00000099, this run step-0000002" in log(done)
    assert content(done) == before and outcome(tmp_path / "r") == outcome(whole)


def test_a_newer_one_that_could_not_be_listed_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken, and then it was down: it is listed before anything is copied."""
    config = mirrored(tmp_path, tmp_path, tmp_path / "mirror")
    folder, lines = tmp_path / "r", list[str]()
    hurry(monkeypatch.setattr)
    write(tmp_path / "mirror" / "r", 8, good=8)
    write(folder, 4, good=4)
    before = content(config)
    files, asked = Folder.files, list[str]()

    def down_once(self: Folder, below: str = "") -> dict[str, Status]:
        asked.append(below)
        if len(asked) == 1:
            raise PlaceError("nobody listens there", passing=True)
        return files(self, below)

    monkeypatch.setattr(Folder, "files", down_once)
    with Mirror(config, lines.append) as mirror:
        (note,) = take_from_mirror(mirror, folder, lines.append)
        assert "nobody listens there; the run goes on from the disk" in note
        with mirror.beside_steps(lines.append):
            pass
    assert content(config) == before
    told, back, end = lines
    assert "has step-00000008, this run step-00000004: nothing is copied before that step" in told
    assert back == f"mirror {there(config)} works again", "not: all is there"
    assert "step-00000004 is not there (it has a newer one)" in end


def test_a_mirror_that_is_down_holds_up_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preempted run has half a minute for all: a place that failed before gets a short time."""
    config = mirrored(tmp_path, tmp_path, tmp_path / "mirror")
    lines, back = list[str](), threading.Event()
    hurry(monkeypatch.setattr)
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    write(tmp_path / "r", 4, good=4)
    tries = 0

    def silent(self: Folder, *_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise PlaceError("no answer in time", passing=True)
        back.wait(60)

    with Mirror(config, lines.append) as mirror:
        mirror.connect()
        monkeypatch.setattr(Folder, "put", silent)
        with mirror.beside_steps(lines.append):
            while tries < 2:
                time.sleep(0.01)
            begun = time.monotonic()
        assert time.monotonic() - begun < 30
        back.set()
    assert "no answer in time; " in lines[0] and "step-00000004 is not there (no answer in" in lines[1]


def test_a_mirror_that_fails_at_the_end_says_one_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing, and why: not that the run goes on."""
    config = mirrored(tmp_path, tmp_path, tmp_path / "mirror")
    lines, asked, ended = list[str](), threading.Event(), threading.Event()
    hurry(monkeypatch.setattr)
    write(tmp_path / "r", 4, good=4)

    def late(self: Folder, *_: object, **__: object) -> None:
        asked.set()
        ended.wait(60)
        raise PlaceError("no answer in time", passing=True)

    with Mirror(config, lines.append) as mirror:
        mirror.connect()
        monkeypatch.setattr(Folder, "put", late)
        with mirror.beside_steps(lines.append):
            assert asked.wait(60)
            threading.Timer(0.2, ended.set).start()
    (line,) = lines
    assert "step-00000004 is not there (no answer in time; check it), but in " in line


def back_after_start(config: Config, flag: Path) -> None:
    """Down until the run has begun."""
    step = Step.__call__

    def call(self: Step, *args: Any) -> Any:
        flag.unlink(missing_ok=True)
        while "nothing is copied before" not in log(config):
            time.sleep(0.01)
        return step(self, *args)

    setattr(Step, "__call__", call)  # noqa: B010
    when_down(config, flag)


@pytest.mark.parametrize(
    ("keys", "bucket", "words"),
    [
        (READ_ONLY, BUCKET, "no permission; check the keys"),
        (BAD, BUCKET, "the store does not know the access key"),
        (FULL, "no-such-bucket", "there is no such bucket"),
    ],
    ids=["read-only", "bad keys", "no bucket"],
)
def test_stores_that_refuse(
    trees: Path,
    tmp_path: Path,
    store: Weed,
    monkeypatch: pytest.MonkeyPatch,
    keys: Keys,
    bucket: str,
    words: str,
) -> None:
    """One line."""
    for name, value in environment(store.endpoint, keys).items():
        monkeypatch.setenv(name, value)
    text = refusal(mirrored(trees, tmp_path, f"s3://{bucket}/refused"))
    assert words in text and "\n" not in text and keys.secret not in text


def test_a_server_that_is_killed_and_started_again(
    trees: Path, tmp_path: Path, store: Weed, s3: str, whole: Path
) -> None:
    """kill -9 in the middle: the run ends with exit code 0, and the same command copies what is missing."""
    config = mirrored(trees, tmp_path, s3)
    process = start(hurried, config)
    with killed_at_the_end([process]):
        wait_for(lambda: len(whole_in(content(config))) > 0, process)
        store.kill()
        try:
            assert finish(process) == 0
        finally:
            store.start_again()
    assert outcome(tmp_path / "r") == outcome(whole)
    assert log(config).count("step-00000021 is not there (") == 1
    assert finish(start(hurried, config)) == 0
    assert_mirrored(config)
