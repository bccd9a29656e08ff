"""A killed, failed or interrupted run resumes to the same bytes; two runs and changed plans are refused."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.pipeline.making.test_pack import bad_entries, contents, save_image

from turbomim.benchmarks.faults.kill_shard_make import digest, draw_photographs, fork
from turbomim.pipeline.making import pack
from turbomim.pipeline.making.journal import read_journal
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.making.shard_job import ShardJob, ShardResult, pack_shard
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.manifest import MAKING
from turbomim.pipeline.tars.split import Split, open_split

KILLED = 9


def die(job: ShardJob) -> NoReturn:
    os._exit(KILLED)


def interrupted(source: Path, folder: Path, images: int, *, workers: int = 1, **settings: Any) -> None:
    """Run until at least this number of images is packed."""

    def interrupt(done: int, total: int) -> None:
        if done >= images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shards(source, folder, ShardSettings(**settings), workers=workers, progress=interrupt)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_runs_end_with_the_same_bytes(workers: int) -> None:
    words = ["--kills", "5", "--workers", str(workers), "--count", "40", "--shard-size", "3"]
    program = [sys.executable, "-m", "turbomim.benchmarks.faults.kill_shard_make", *words]
    run = subprocess.run(program, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stdout + run.stderr
    tally = json.loads(run.stdout.splitlines()[0])
    assert (tally["kills"], tally["different"]) == (5, 0) and tally["resumed"] > 0


def make_shards_killed_at(call: int, source: Path, folder: Path) -> None:
    """Die without a word at the call of this number to what makes files durable, moves or removes them."""
    calls = 0

    def counting(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os._exit(KILLED)
        return function(*args, **options)

    for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
        setattr(os, name, partial(counting, getattr(os, name)))
    make_shards(source, folder, ShardSettings(shard_size=1))


def test_a_kill_at_any_durable_write_or_removal(tmp_path: Path) -> None:
    source = draw_photographs(tmp_path / "src", 2)
    make_shards(source, tmp_path / "whole", ShardSettings(shard_size=1))
    expected = digest(tmp_path / "whole")
    call = moved = 0
    while True:
        call += 1
        folder = tmp_path / f"{call}"
        _, status = os.waitpid(fork(partial(make_shards_killed_at, call, source, folder)), 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            break
        assert code == KILLED
        begun_to_move = any(folder.glob("*.tar"))
        report = make_shards(source, folder, ShardSettings(shard_size=1))
        assert digest(folder) == expected, f"killed at call {call}"
        # shards that were moved into place are not written again
        assert report.kept == 2 or not begun_to_move
        moved += begun_to_move
    # two files and a journal line a shard, nine listings, their moves, and the removals
    assert call > 40 and moved > 10


def test_finished_shards_are_not_written_again(
    photo_folder: Path, tmp_path: Path, tiny_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trees"
    interrupted(photo_folder, folder, 18, shard_size=9)
    packed = []

    def note(job: ShardJob) -> ShardResult:
        packed.append(job.number)
        return pack_shard(job)

    monkeypatch.setattr(pack, "pack_shard", note)
    report = make_shards(photo_folder, folder, ShardSettings(shard_size=9))
    assert (packed, report.kept) == ([2, 3], 2)
    assert contents(folder) == contents(tiny_split.folder)


def cut_shards(making: Path) -> None:
    first, second, third = sorted(making.glob("*.tar"))
    os.truncate(first, 1000)
    second.unlink()
    third.with_suffix(".idx").unlink()


def cut_journal(making: Path) -> None:
    with open(making / "journal.jsonl", "ab") as journal:
        journal.write(b'{"number": 3, "sha')


def lose_plan(making: Path) -> None:
    (making / "plan.json").unlink()


@pytest.mark.parametrize(("damage", "kept"), [(cut_shards, 0), (cut_journal, 3), (lose_plan, 0)])
def test_what_a_kill_damaged_is_made_again(
    damage: Callable[[Path], None], kept: int, photo_folder: Path, tmp_path: Path, tiny_split: Split
) -> None:
    folder = tmp_path / "trees"
    interrupted(photo_folder, folder, 27, shard_size=9)
    damage(folder / MAKING)
    assert make_shards(photo_folder, folder, ShardSettings(shard_size=9)).kept == kept
    assert contents(folder) == contents(tiny_split.folder)


def test_numbers_close_up_after_a_resume(tmp_path: Path) -> None:
    for number in range(6):
        save_image(tmp_path / "src" / f"{number}.jpg", seed=number, side=20 if number % 2 else 40)
    make_shards(tmp_path / "src", tmp_path / "whole", ShardSettings(shard_size=1))
    for images in range(1, 7):
        folder = tmp_path / f"{images}"
        interrupted(tmp_path / "src", folder, images, shard_size=1)
        make_shards(tmp_path / "src", folder, ShardSettings(shard_size=1))
        assert contents(folder) == contents(tmp_path / "whole")
    assert len(open_split(tmp_path / "1").manifest.shards) == 3


def test_the_same_command_on_a_finished_split_does_nothing(photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (tmp_path / "bad").mkdir()
    first = make_shards(photo_folder, folder, ShardSettings(shard_size=9))
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    folder.chmod(0o555)
    again = make_shards(photo_folder, folder, ShardSettings(shard_size=9), workers=2)
    folder.chmod(0o755)
    assert again.kept == 4 and first.kept == 0
    assert (again.manifest, again.bad, again.other_files) == (first.manifest, first.bad, first.other_files)
    assert times == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


OTHER_PLANS: list[tuple[ShardSettings, str]] = [
    (ShardSettings(shard_size=8), r"another samples per shard \(9, now 8\)"),
    (ShardSettings(shard_size=9, seed=1), r"another seed \(0, now 1\)"),
    (ShardSettings(shard_size=9, min_side=33), r"another min side \(32, now 33\)"),
    (ShardSettings(shard_size=9, name="x"), r"another name \('trees', now 'x'\)"),
    (ShardSettings(shard_size=9, check="full"), r"another check \('header', now 'full'\)"),
]


@pytest.mark.parametrize(("settings", "words"), OTHER_PLANS, ids=[words for _, words in OTHER_PLANS])
def test_another_plan_is_refused(
    settings: ShardSettings, words: str, photo_folder: Path, tmp_path: Path, tiny_split: Split
) -> None:
    folder = tmp_path / "out"
    interrupted(photo_folder, folder, 9, shard_size=9)
    before = digest(folder)
    with pytest.raises(UserError, match=f"holds an unfinished run with {words}.*remove the folder"):
        make_shards(photo_folder, folder, settings)
    assert digest(folder) == before
    with pytest.raises(UserError, match=f"holds finished shards with {words}: choose another folder"):
        make_shards(photo_folder, tiny_split.folder, settings)


def add(source: Path) -> None:
    save_image(source / "a" / "new.jpg")


def remove(source: Path) -> None:
    (source / "a" / "0.jpg").unlink()


def touch(source: Path) -> None:
    os.utime(source / "a" / "0.jpg", ns=(1, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [(add, "another source images"), (remove, "another source images"), (touch, "another source times")],
    ids=["added", "removed", "touched"],
)
def test_a_source_that_changed_between_runs_is_refused(
    change: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    source = draw_photographs(tmp_path / "src", 9)
    interrupted(source, tmp_path / "out", 3, shard_size=3)
    change(source)
    with pytest.raises(UserError, match=f"holds an unfinished run with {words}"):
        make_shards(source, tmp_path / "out", ShardSettings(shard_size=3))


@pytest.mark.parametrize("how", ["gone", "other size", "other time"])
def test_a_source_that_changes_underneath_stops_the_run(how: str, tmp_path: Path) -> None:
    source = draw_photographs(tmp_path / "src", 9)

    def change(done: int, total: int) -> None:
        for path in source.rglob("*.jpg") if done == 3 else ():
            if how == "gone":
                path.unlink()
            elif how == "other size":
                # the times as they were
                status = path.stat()
                path.write_bytes(path.read_bytes() + b"x")
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            else:
                os.utime(path, ns=(1, 1))

    with pytest.raises(UserError, match=r"is not the file that was listed at the start.*\(shards kept: 1;"):
        make_shards(source, tmp_path / "out", ShardSettings(shard_size=3), progress=change)


def test_a_second_run_is_refused_while_the_first_works(photo_folder: Path, tmp_path: Path) -> None:
    refusals = []

    def second(done: int, total: int) -> None:
        before = digest(tmp_path / "out")
        with pytest.raises(UserError) as raised:
            make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_size=9))
        refusals.append(str(raised.value))
        assert digest(tmp_path / "out") == before

    make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_size=9), progress=second)
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert len(refusals) == 5
    assert all(f"out' is in use by {owner}: wait for its end" in text for text in refusals)


def test_a_lock_that_a_killed_run_left_holds_nobody(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / MAKING).mkdir(parents=True)
    (tmp_path / "out" / MAKING / "lock").write_text("process 1 on elsewhere")
    make_shards(photo_folder, tmp_path / "out")
    assert not (tmp_path / "out" / MAKING).exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_keeps_what_is_done(workers: int, photo_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    interrupted(photo_folder, folder, 2, shard_size=2, workers=workers)
    assert not multiprocessing.active_children()
    assert [path.name for path in folder.iterdir()] == [MAKING]
    assert make_shards(photo_folder, folder, ShardSettings(shard_size=2)).kept >= 1
    make_shards(photo_folder, tmp_path / "whole", ShardSettings(shard_size=2))
    assert contents(folder) == contents(tmp_path / "whole")


def test_an_unfinished_split_says_so(photo_folder: Path, tmp_path: Path) -> None:
    interrupted(photo_folder, tmp_path / "out", 2, shard_size=2)
    with pytest.raises(UserError, match="not finished: run the same `turbomim shard make` again"):
        open_split(tmp_path / "out")


def test_a_run_interrupted_before_its_first_shard_leaves_nothing(photo_folder: Path, tmp_path: Path) -> None:
    interrupted(photo_folder, tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    interrupted(photo_folder, tmp_path / "empty", 0)
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_worker_that_dies(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(photo_folder, tmp_path / "out", 9, shard_size=9)
    monkeypatch.setattr(pack, "pack_shard", die)
    with pytest.raises(UserError, match=r"a worker process died .*\(shards kept: 1; the same"):
        make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_size=9), workers=2)
    assert len(read_journal(tmp_path / "out" / MAKING)) == 1


def test_on_bad_fail_keeps_what_is_done_and_quarantine_goes_on(tmp_path: Path) -> None:
    source = draw_photographs(tmp_path / "src", 12)
    with pytest.raises(
        UserError, match=r"^'a/broken.jpg': not a JPEG.*--on-bad quarantine \(shards kept: \d+;"
    ):
        make_shards(source, tmp_path / "out", ShardSettings(shard_size=1, on_bad="fail"))
    report = make_shards(source, tmp_path / "out", ShardSettings(shard_size=1))
    assert report.kept > 0 and list(bad_entries(tmp_path / "out")) == ["a/broken.jpg"]
    interrupted(source, tmp_path / "other", 13, shard_size=1)
    with pytest.raises(UserError, match=r"^'a/broken.jpg': not a JPEG"):
        make_shards(source, tmp_path / "other", ShardSettings(shard_size=1, on_bad="fail"))


def test_a_full_disk_keeps_what_is_done(
    photo_folder: Path, tmp_path: Path, tiny_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = []

    def full(old: Path, new: Path) -> None:
        replaced.append(new)
        if len(replaced) > 8:
            raise OSError(28, "No space left on device")
        os.rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match=r"No space left on device.*\(shards kept: \d;"):
            make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_size=9))
    assert make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_size=9)).kept > 0
    assert contents(tmp_path / "out") == contents(tiny_split.folder)


def test_a_folder_with_strangers_is_refused_beside_a_dead_lock(photo_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / MAKING).mkdir(parents=True)
    save_image(tmp_path / "out" / "mine.jpg")
    with pytest.raises(UserError, match="exists and is not empty"):
        make_shards(photo_folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.jpg"]
