"""A run's mirror has what the run folder has, and a bare machine goes on from it as if nothing had been.

Planted bugs and the test that fails on each: checksums that nobody looks at,
`test_what_is_not_whole_is_passed_over`; a checkpoint that counts before its log, or one that is removed
while it is copied, `test_what_is_being_copied_stays_on_the_disk`; no copy of the one to roll back to,
`test_the_one_to_roll_back_to_is_copied_first_and_kept`; other settings that nobody compares,
`test_a_run_with_other_settings_is_refused`; signs of life that nobody heeds, `test_two_machines`; an
older run that copies over a newer one, `test_a_newer_mirror_that_comes_back_is_left_alone`, also where the
mirror was taken and not listed, `test_a_newer_one_that_could_not_be_listed_is_left_alone`; a place that
failed before and is waited for as any, `test_a_mirror_that_is_down_holds_up_no_end`; a checkpoint
that has its name before its log is there, `test_killed_while_it_comes_from_the_mirror`; a checkpoint read
where only rank 0 has it, `test_machines_with_disks_of_their_own`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import attempt, finish, killed_at_the_end, launch_ranks, outcome, ranked, status, wait_for
from tests.train.folder.mirroring import (
    STEPS,
    bare,
    hurried,
    hurry,
    mirrored,
    start,
    when_down,
)

from turbomim.benchmarks.stores.weed import BAD, BUCKET, FULL, READ_ONLY, Keys, Weed, environment
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint, from_mirror
from turbomim.train.folder import mirror as module
from turbomim.train.folder.checkpoint import Snapshot, State
from turbomim.train.folder.copied import LEASE, OF_CHECKPOINT, files_of, whole_in
from turbomim.train.folder.from_mirror import take_from_mirror
from turbomim.train.folder.mirror import Mirror
from turbomim.train.loop.checkpoints import Saver
from turbomim.train.loop.step import Step
from turbomim.train.settings.config import Config


def said(config: Config) -> str:
    """What a user was told by the attempt that failed."""
    return Path(config.run.folder, "said-0").read_text()


def log(config: Config) -> str:
    return Path(config.run.folder, "r", "train.log").read_text()


def there(config: Config) -> Place:
    return open_place(config.run.mirror).below("r")


def content(config: Config) -> dict[str, bytes]:
    """What the mirror has."""
    place = there(config)
    return {name: place.read(name) for name in place.files()}


@pytest.fixture(scope="module")
def whole(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing befell, without a mirror."""
    runs = tmp_path_factory.mktemp("whole")
    assert finish(start(hurried, mirrored(tiny_split.folder, runs, ""))) == 0
    return runs / "r"


@pytest.fixture(scope="module")
def ended(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that is done, r, and its mirror, mirror/r."""
    runs = tmp_path_factory.mktemp("ended")
    config = mirrored(tiny_split.folder, runs, runs / "mirror", keep=4, picture_every=10)
    assert finish(start(hurried, config)) == 0
    return runs


@pytest.fixture
def done(ended: Path, trees: Path, tmp_path: Path) -> Config:
    """A run that is done, with its mirror, free to be damaged."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    return mirrored(trees, tmp_path, tmp_path / "mirror", keep=4)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where mirrors are."""
    return str(request.getfixturevalue("s3")) if request.param == "s3" else str(tmp_path / "mirror")


def assert_mirrored(config: Config) -> None:
    """The mirror is the run folder, but for what is temporary, and checkpoints before the newest."""
    folder, found = Path(config.run.folder, "r"), content(config)
    newest = [f"ckpt/step-000000{STEPS}/{name}" for name in OF_CHECKPOINT]
    files = [*files_of(folder), *newest, "ckpt/latest"]
    assert {name: found[name] for name in files} == {name: (folder / name).read_bytes() for name in files}
    assert {"config.yaml", "env.json", "status.json", "metrics.jsonl", "train.log"} <= set(files)
    assert any(name.startswith("export/") for name in files)
    assert 1 <= len(whole_in(found)) <= config.run.keep
    # and nothing else, but for what a kill left of a lease
    others = {f"ckpt/{step}/{name}" for step in whole_in(found) for name in OF_CHECKPOINT}
    assert {n for n in set(found) - set(files) if not n.startswith(".lease.json.")} <= others


def test_it_has_what_the_folder_has(done: Config, tmp_path: Path, place: str, whole: Path) -> None:
    """Also of a run that is done, on a machine that has nothing of it, or in a mirror that has nothing."""
    config = mirrored(Path(done.data.path), tmp_path, place, keep=4)
    assert outcome(tmp_path / "r") == outcome(whole)
    if place.startswith("s3:"):
        assert finish(start(hurried, config)) == 0
    assert_mirrored(config)
    assert status(tmp_path / "r")["status"] == "done"
    assert "images/reconstruction-00000020.png" in content(config)
    assert finish(start(hurried, bare(config))) == 0
    assert outcome(tmp_path / "r") == outcome(whole)
    assert_mirrored(config)


def test_killed_at_any_time_and_resumed_on_bare_machines(
    trees: Path, tmp_path: Path, place: str, whole: Path
) -> None:
    """Losses and weights are those of the run that nothing befell; the log has every line."""
    draws, config, folder = random.Random(1), mirrored(trees, tmp_path, place), tmp_path / "r"
    for second in (False, True):
        process = start(hurried, config)
        with killed_at_the_end([process]):
            wait_for(lambda: (folder / "metrics.jsonl").exists(), process)
            if second:
                wait_for(lambda: bool(whole_in(there(config).files())), process)
            process.join(draws.uniform(0, 0.1))
        bare(config)
    assert finish(start(hurried, config)) == 0
    assert outcome(folder) == outcome(whole)
    # the log comes from there too, with the lines of the starts before
    assert 1 <= log(config).count("comes from the mirror") <= 2
    assert_mirrored(config)


def test_killed_while_it_comes_from_the_mirror(done: Config, tmp_path: Path, whole: Path) -> None:
    """After any file: the next start finds nothing half done, and the log is whole."""
    bare(done)
    for files in (2, 5, 8):
        assert finish(start(killed_after, done, files)) == -signal.SIGKILL
        assert checkpoint.complete(tmp_path / "r" / "ckpt") == []
    assert finish(start(hurried, done)) == 0
    assert outcome(tmp_path / "r") == outcome(whole)
    assert not list((tmp_path / "r").rglob(".*"))


def killed_after(config: Config, files: int) -> None:
    """An attempt that is killed when so many files have come."""
    bring, count = from_mirror._bring, 0

    def call(*args: Any) -> None:
        nonlocal count
        count += 1
        bring(*args)
        if count == files:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(from_mirror, "_bring", call)  # noqa: B010
    hurried(config)


def test_machines_with_disks_of_their_own(trees: Path, tmp_path: Path, whole: Path) -> None:
    """Two ranks on two machines: the second, which has no run folder, gets checkpoints through the mirror.

    At a resume, after which the losses are the same, and at a roll-back.
    """
    runs = {"save_every": 5, "save_in_background": False}
    config = mirrored(trees, Path("runs"), "../mirror", **runs)
    optim = dataclasses.replace(config.optim, max_skipped=4)
    config = dataclasses.replace(config, optim=optim)

    def go(machines: Path, stop: int, bad: tuple[int, int] | None) -> str:
        ranks = launch_ranks(on_its_own_disk, 2, config, machines, stop, bad)
        assert [finish(process) for process in ranks] == [0, 0]
        return (machines / "0" / "runs" / "r" / "train.log").read_text()

    assert "stopped by" in go(tmp_path / "a", 8, None)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for machines, bad in ((tmp_path / "a", None), (tmp_path / "b", (12, 15))):
        text = go(machines, 0, bad)
        assert "resumed from runs/r/ckpt/step-00000008" in text
        assert ("roll-back 1 of" in text) == (bad is not None)
        brought = {path.name for path in (machines / "1" / "runs" / "r" / "ckpt").iterdir()}
        assert brought == {"step-00000008", *(["step-00000010"] if bad else [])}
    found, wanted = (dict(outcome(f)[1]) for f in (tmp_path / "a" / "0" / "runs" / "r", whole))
    assert found.keys() == wanted.keys()
    theirs = [float.fromhex(wanted[step]) for step in found]
    assert [float.fromhex(loss) for loss in found.values()] == pytest.approx(theirs, abs=1e-5)


def on_its_own_disk(
    config: Config, folder: Path, stop: int, bad: tuple[int, int] | None, rank: int, world: int, port: int
) -> None:
    """A rank on a machine of its own; asked to stop in a step; weights go bad in some steps."""
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    (folder / str(rank)).mkdir(parents=True, exist_ok=True)
    os.chdir(folder / str(rank))
    step = Step.__call__

    def call(self: Step, batches: Any, lr: float) -> Any:
        number = batches[0].position // 8 + 1
        if number == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        if bad and bad[0] <= number <= bad[1]:
            lr = float("nan")
        return step(self, batches, lr)

    setattr(Step, "__call__", call)  # noqa: B010
    hurry()
    ranked(config, rank, world, port)


def test_what_is_not_whole_is_passed_over(done: Config, tmp_path: Path, whole: Path) -> None:
    """Half copied, cut, or with other bytes: the next older one is taken, and the run is the same."""
    ckpt = tmp_path / "mirror" / "r" / "ckpt"
    half, cut, other, good = sorted(ckpt.glob("step-*"), reverse=True)
    # COMPLETE comes last, so a copy under way has none
    (half / "COMPLETE").unlink()
    (cut / "optimizer.safetensors").unlink()
    damaged = bytearray((other / "model.safetensors").read_bytes())
    damaged[-5] ^= 1
    (other / "model.safetensors").write_bytes(damaged)
    assert finish(start(hurried, bare(done))) == 0
    said = log(done)
    assert (
        f"{other} is damaged and was passed over" in said
        and f"resumed from {tmp_path}/r/ckpt/{good.name}" in said
    )
    assert outcome(tmp_path / "r") == outcome(whole)
    assert_mirrored(done)


def test_none_that_is_whole_is_an_error(done: Config, tmp_path: Path) -> None:
    """A new run would be put over what may be mended."""
    for path in (tmp_path / "mirror").rglob("model.safetensors"):
        path.write_bytes(b"")
    before = content(done)
    assert finish(start(hurried, bare(done))) == 1
    assert f"no checkpoint in {tmp_path}/mirror/r is whole (step-" in said(done)
    assert content(done) == before


@pytest.mark.parametrize("newer", ["the disk", "the mirror"])
def test_the_newer_one_wins(done: Config, tmp_path: Path, whole: Path, newer: str) -> None:
    """Where both have checkpoints.  Nothing comes from an older mirror."""
    older = tmp_path / "r" if newer == "the mirror" else tmp_path / "mirror" / "r"
    latest = sorted((older / "ckpt").glob("step-*"))[-1]
    for path in latest.iterdir():
        path.unlink()
    latest.rmdir()
    # a file by which it shows whether the log was brought
    (tmp_path / "mirror" / "r" / "note.txt").write_text("of the mirror")
    assert finish(start(hurried, done)) == 0
    assert (tmp_path / "r" / "note.txt").exists() == (newer == "the mirror")
    assert (f"{latest} comes from the mirror" in log(done)) == (newer == "the mirror")
    assert outcome(tmp_path / "r") == outcome(whole)
    (tmp_path / "mirror" / "r" / "note.txt").unlink()
    (tmp_path / "r" / "note.txt").unlink(missing_ok=True)
    assert_mirrored(done)


def test_a_run_with_other_settings_is_refused(done: Config, trees: Path, tmp_path: Path) -> None:
    """Before anything is brought or copied."""
    before = content(done)
    other = mirrored(trees, tmp_path / "other", tmp_path / "mirror", seed=1)
    assert finish(start(hurried, other)) == 1
    assert f"{tmp_path}/mirror/r holds a run with other settings (run.seed: 0 -> 1)" in said(other)
    assert content(done) == before
    assert [path.name for path in (tmp_path / "other" / "r").iterdir()] == ["lock"]


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


@pytest.mark.parametrize("where", ["https://host/runs", "http://127.0.0.1:1/runs", "hf://datasets/me/runs"])
def test_a_place_that_is_only_read_is_no_mirror(tmp_path: Path, where: str) -> None:
    with pytest.raises(UserError, match=rf"^run.mirror = {where}: is only read; give a folder, or s3://, gs"):
        Mirror(mirrored(tmp_path, tmp_path, where), print)


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


def test_the_one_to_roll_back_to_is_copied_first_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that are newer each needs it."""
    config = mirrored(tmp_path, tmp_path, tmp_path / "mirror")
    folder, lines = tmp_path / "r", list[str]()
    hurry(monkeypatch.setattr)
    with Mirror(config, lines.append) as mirror:
        mirror.connect()
        for step in (4, 6, 8, 10):
            write(folder, step, good=4)
            if step > 4:
                with mirror.beside_steps(lines.append):
                    pass
                assert whole_in(content(config))[-1] == "step-00000004"
    assert whole_in(content(config)) == ["step-00000010", "step-00000008", "step-00000004"]
    assert lines == []
    shutil.rmtree(folder)
    with Mirror(config, lines.append) as mirror:
        assert take_from_mirror(mirror, folder, lines.append) == []
    # one line, though the one to roll back to came too
    (line,) = lines
    assert line.startswith(f"{folder}/ckpt/step-00000010 comes from the mirror {there(config)} (")
    found = [path.name for path in checkpoint.complete(folder / "ckpt")]
    assert found == ["step-00000010", "step-00000004"] and all(
        map(checkpoint.is_whole, (folder / "ckpt").glob("s*"))
    )


def write(folder: Path, step: int, *, good: int) -> None:
    """A checkpoint of next to nothing."""
    state = State(step=step, position=step, fingerprint="f", config={}, versions={}, good=good)
    tensors = {"w": torch.full((3,), float(step))}
    checkpoint.write(folder / "ckpt", Snapshot(state=state, weights=tensors, moments=tensors), 2)


def test_what_is_being_copied_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come meanwhile.  The log is there before the copy counts."""
    config = mirrored(tmp_path, tmp_path, tmp_path / "mirror")
    folder, copied = tmp_path / "r" / "ckpt", tmp_path / "mirror" / "r" / "ckpt"
    hurry(monkeypatch.setattr)
    with Mirror(config, print) as mirror, pytest.MonkeyPatch.context() as patch:
        mirror.connect()
        put, held, go_on = Folder.put, threading.Event(), threading.Event()

        def slow(self: Folder, name: str, *args: Any, **options: Any) -> str:
            if name.endswith("00000002/state.json"):
                (tmp_path / "r" / "metrics.jsonl").touch()
            if name.endswith("00000002/COMPLETE"):
                held.set()
                assert go_on.wait(60)
            return put(self, name, *args, **options)

        patch.setattr(Folder, "put", slow)
        with Saver(folder, keep=2, background=False, mirror=mirror) as saver, mirror.beside_steps(print):
            for step in (2, 4, 6, 8):
                state = State(step=step, position=step, fingerprint="f", config={}, versions={}, good=step)
                saver.save(Snapshot(state=state, weights={"w": torch.ones(3)}, moments={"w": torch.ones(3)}))
                while not (copied / "step-00000002").exists():
                    time.sleep(0.01)
            assert [p.name for p in checkpoint.complete(folder)] == [f"step-0000000{n}" for n in (8, 6, 2)]
            assert held.wait(60)
            assert whole_in(content(config)) == [] and "metrics.jsonl" in content(config)
            go_on.set()
    assert whole_in(content(config)) == ["step-00000008", "step-00000002"]


def taken(place: Place, number: int) -> None:
    words = {"host": "elsewhere", "process": 7, "system": "", "born": "", "lease": "x", "beat": number}
    place.put(LEASE, json.dumps(words).encode())


def test_two_machines(done: Config, tmp_path: Path, whole: Path) -> None:
    """The second is refused while the first lives, and goes on where that has died."""
    before = content(bare(done))
    process, number = start(hurried, done), 0
    while process.is_alive():
        number += 1
        taken(there(done), number)
        time.sleep(0.1)
    assert finish(process) == 1
    assert said(done) == (
        f"the mirror {there(done)} is in use by process 7 on elsewhere: wait for its end, or give another "
        "--run.name"
    )
    found = content(done)
    assert json.loads(found.pop(LEASE))["lease"] == "x" and found == before
    assert finish(start(hurried, done)) == 0
    assert outcome(tmp_path / "r") == outcome(whole)
    assert_mirrored(done)


def test_a_mirror_that_another_machine_took(trees: Path, tmp_path: Path, whole: Path) -> None:
    """While this one was out of reach: it goes on, and copies nothing any more."""
    config = mirrored(trees, tmp_path, tmp_path / "mirror")
    assert finish(start(taken_in_between, config)) == 0
    text, of = log(config), f"mirror {tmp_path}/mirror/r"
    assert f"the {of} was taken over by process 7 on elsewhere; from now on nothing is copied" in text
    assert text.count(f"{of}: step-00000021 is not there") == 1
    assert outcome(tmp_path / "r") == outcome(whole)
    assert json.loads(content(config)[LEASE])["host"] == "elsewhere"
    assert "step-00000021" not in whole_in(content(config))


def taken_in_between(config: Config) -> None:
    step, count = Step.__call__, 0

    def call(self: Step, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 8:
            number = 0
            # again and again: a beat of this one that was on its way is put over the first
            while "was taken over" not in log(config):
                number += 1
                taken(there(config), number)
                time.sleep(0.01)
        return step(self, *args)

    setattr(Step, "__call__", call)  # noqa: B010
    hurried(config)


def test_places_that_cannot_be_used(trees: Path, tmp_path: Path) -> None:
    """One line, before the first step."""
    (tmp_path / "file").touch()
    refused: dict[Path | str, str] = {
        tmp_path / "file" / "runs": "Not a directory",
        tmp_path: "is the run's own folder; give another place",
        "s3://user:word@bucket/runs": "give it without, and credentials in the environment",
        "ftp://host/runs": "ftp:// is not known",
    }
    for mirror, words in refused.items():
        text = refusal(mirrored(trees, tmp_path, mirror))
        assert words in text and "\n" not in text
    config = mirrored(trees, tmp_path, "ftp://host/runs")
    assert finish(start(hurried, config)) == 1
    assert "ftp:// is not known" in said(config)
    assert not (tmp_path / "r" / "metrics.jsonl").exists()


def refusal(config: Config) -> str:
    """What a start is told that takes nothing from its mirror."""
    with pytest.raises(UserError) as raised, Mirror(config, print) as mirror:
        take_from_mirror(mirror, Path(config.run.folder, "r"), print)
    return str(raised.value)


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


def test_no_secret_is_written(
    done: Config, tmp_path: Path, s3: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """To the folder, the mirror or the terminal; of a mirror that works, and of one that refuses the keys."""
    config = mirrored(Path(done.data.path), tmp_path, s3)
    assert finish(start(hurried, config)) == 0
    os.environ["AWS_ACCESS_KEY_ID"] = BAD.access
    assert finish(start(hurried, config)) == 1
    os.environ["AWS_ACCESS_KEY_ID"] = FULL.access
    texts = [*content(config).values(), *(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())]
    texts += [text.encode() for text in capfd.readouterr()]
    assert len(texts) > 20
    for secret in (FULL.secret, FULL.access, BAD.access):
        assert not any(secret.encode() in text for text in texts)


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
