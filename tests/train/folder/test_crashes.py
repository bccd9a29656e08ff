"""A process that dies: the next start says so, finds the photograph that did it, and goes on without it.

Planted bugs: the journal written after the decoding has begun, or not on rank 1, or the list not read by
rank 1, each fail `test_a_photograph_that_kills`; no check in the next start fails all of them.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pipeline.loading import make_loader
from tests.runs import (
    attempt,
    config_for,
    finish,
    killed_at_the_end,
    launch,
    launch_ranks,
    outcome,
    ranked,
    records,
    status,
    wait_for,
)

from turbomim.benchmarks.faults.deadly_image import plant_decoder, split_with
from turbomim.pipeline.decoding import decode
from turbomim.pipeline.decoding.try_images import deadly_samples
from turbomim.pipeline.decoding.under_way import Journal, UnderWay, begin, left_under_way
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.folder import rundir
from turbomim.train.folder.crashes import read_deadly_samples
from turbomim.train.pictures.reconstruction import draw_reconstructions
from turbomim.train.settings.config import Config

SAMPLES, DEADLY = 40, 17


def use_planted(folder: Path) -> None:
    """Let this process, and those that it starts, decode by the planted decoder."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(folder))
    sys.modules.pop("simplejpeg", None)
    decode._simplejpeg.cache_clear()


def planted(config: Config, folder: Path, rank: int, world: int, port: int) -> None:
    use_planted(folder)
    ranked(config, rank, world, port)


def run_config(split: Split, runs: Path) -> Config:
    config = config_for(split.folder, runs, optim={"epochs": 2, "global_batch": 8}, run={"save_every": 1})
    return dataclasses.replace(config, step=dataclasses.replace(config.step, rank_timeout=20.0))


@pytest.mark.parametrize("world", [1, 2])
def test_a_photograph_that_kills(tmp_path: Path, world: int) -> None:
    """On any rank: it is found, named, replaced; the run is that in which it was bad from the start."""
    folder = plant_decoder(tmp_path / "planted")
    deadly = split_with(tmp_path / "deadly", SAMPLES, DEADLY, deadly=True)
    cut = split_with(tmp_path / "cut", SAMPLES, DEADLY, deadly=False)
    config, run = run_config(deadly, tmp_path / "runs"), tmp_path / "runs" / "r"
    codes = [finish(p) for p in launch_ranks(planted, world, config, folder)]
    assert -signal.SIGSEGV in codes and 0 not in codes
    assert left_under_way(run)[deadly.manifest.fingerprint].count(DEADLY) == 1
    assert [finish(p) for p in launch_ranks(planted, world, config, folder)] == [0] * world
    log = (run / "train.log").read_text()
    name = deadly.locate(DEADLY)
    assert "a process of this run died after step " in log
    assert f"{name}: decoding it ends the process: SIGSEGV; it is replaced from now on" in log
    # once on each rank that meets it
    assert 1 <= log.count(f"{name} cannot be decoded") <= world
    listed = {DEADLY: "decoding it ends the process: SIGSEGV"}
    assert read_deadly_samples(run) == {deadly.manifest.fingerprint: listed}
    assert status(run)["status"] == "done" and left_under_way(run) == {}
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(cut.folder)))
    other = dataclasses.replace(other, run=dataclasses.replace(config.run, folder=str(tmp_path / "b")))
    assert [finish(p) for p in launch_ranks(planted, world, other, folder)] == [0] * world
    assert outcome(run) == outcome(tmp_path / "b" / "r")
    assert records(run)[-1]["replaced_total"] == records(tmp_path / "b" / "r")[-1]["replaced_total"] == 2


def test_a_kill_that_no_photograph_did(trees: Path, tmp_path: Path) -> None:
    """The next start says that the last one died, and that its photographs decode."""
    config = config_for(trees, tmp_path, optim={"epochs": 400}, run={"save_every": 5})
    process, run = launch(attempt, config), tmp_path / "r"
    with killed_at_the_end([process]):
        wait_for(lambda: len(records(run)) > 6, process)
        assert not rundir.has_died(status(run))
    assert status(run)["status"] == "running" and rundir.has_died(status(run))
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, epochs=400))
    again = launch(attempt, config)
    with killed_at_the_end([again]):
        wait_for(lambda: (run / "train.log").read_text().count("a new run") + resumed(run) > 1, again)
    log = (run / "train.log").read_text()
    assert "a process of this run died after step " in log
    assert "no process dies over any of the " in log
    assert not (run / "deadly.jsonl").exists()


def resumed(run: Path) -> int:
    return (run / "train.log").read_text().count("resumed from")


def test_what_is_left_of_a_loader(tiny_split: Split, tmp_path: Path) -> None:
    """All that is in a decoder's hands, stand-ins included, while it lives; nothing after its end."""
    fingerprint = tiny_split.manifest.fingerprint
    journal = Journal(folder=tmp_path, rank=3, bad={fingerprint: {5: "it is bad"}})
    said: list[str] = []
    with make_loader(
        tiny_split, size=32, seed=1, global_batch=6, micro_batch=6, threads=1, readers=1, prefetch=2,
        journal=journal, notify=said.append, max_bad_share=1.0,
    ) as loader:  # fmt: skip
        for _ in range(8):
            batch = next(loader)
            under_way = left_under_way(tmp_path)[fingerprint]
            assert len(under_way) > 6 and 5 not in under_way
            assert all(0 <= sample < tiny_split.manifest.samples for sample in under_way)
        assert batch.ids_B.shape == (6,)
    assert left_under_way(tmp_path) == {}
    assert len(said) == 1 and "(it is bad): replaced by" in said[0]


@pytest.mark.parametrize("content", [b"", b"\1", b"\5" + bytes(7), b"\xff" * 24, bytes(8)])
def test_a_file_that_was_being_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "decoding-0-0-abc").write_bytes(content)
    assert set(left_under_way(tmp_path)) == {"abc"}


def test_the_file_says_the_last_batches(tmp_path: Path) -> None:
    with UnderWay(tmp_path / "decoding-0-0-abc") as file:
        file.note([np.arange(9), np.arange(100, 103)])
        file.note([np.array([4, 2])])
        assert left_under_way(tmp_path) == {"abc": [2, 4]}


def test_one_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found as one that kills is; others, before and behind it, are not."""
    folder = tmp_path / "planted"
    folder.mkdir()
    code = (plant_decoder(folder) / "simplejpeg.py").read_text()
    hanging = code.replace("os.kill(os.getpid(), signal.SIGSEGV)", "signal.pause()")
    (folder / "simplejpeg.py").write_text(hanging)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    split = split_with(tmp_path / "split", 6, 2, deadly=True)
    found = deadly_samples(open_split(split.folder), range(6), on_gpu=False, seconds=20.0)
    assert found == ({2: "decoding it does not end within 20 s"}, "")


def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let this code be what tries the images."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def said(*words: str) -> str:
    return f"os.write(1, b{''.join(word + chr(10) for word in words)!r})"


@pytest.mark.parametrize(
    ("code", "deadly", "untried"),
    [
        (f"{said('begin 0', 'end 0', 'begin 1')}; os.kill(os.getpid(), signal.SIGSEGV)", [1], ""),
        # several lines at once, then nothing
        (f"{said('begin 0', 'end 0', 'begin 1')}; time.sleep(60)", [1], ""),
        # memory, a reader's error, an interpreter that does not start: no image's fault
        (f"{said('begin 0')}; sys.exit('memory ran out')", [], "memory ran out (exit code 1)"),
        (f"{said('begin 0', 'end 0')}; sys.exit('cannot read')", [], "cannot read (exit code 1)"),
        ("sys.exit(3)", [], "no reason given (exit code 3)"),
        # the system does so where memory runs out
        (f"{said('begin 0')}; os.kill(os.getpid(), signal.SIGKILL)", [], "the process: SIGKILL"),
    ],
)
def test_who_is_blamed(
    tiny_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    deadly: list[int],
    untried: str,
) -> None:
    child(monkeypatch, tmp_path, code)
    ids = [0, 1] if deadly else [0, 1, 2]
    found, why = deadly_samples(tiny_split, ids, on_gpu=False, seconds=3.0)
    assert list(found) == deadly and why.endswith(untried) and bool(why) == bool(untried)


def test_two_loaders_of_one_split(tiny_split: Split, tmp_path: Path) -> None:
    """A held-out loss over the training's own split takes nothing of its journal away."""
    journal = Journal(folder=tmp_path / "not" / "there", rank=0)
    with journal.open("abc") as first:
        first.note([np.array([1])])
        with journal.open("abc") as second:
            second.note([np.array([2])])
            assert left_under_way(journal.folder) == {"abc": [1, 2]}
        assert left_under_way(journal.folder) == {"abc": [1]}
    (tmp_path / "file").touch()
    lines: list[str] = []
    assert begin(Journal(folder=tmp_path / "file" / "r", rank=1), "abc", lines.append) is None
    assert len(lines) == 1 and "cannot be written by this rank (Not a directory)" in lines[0]


@pytest.mark.parametrize("more", ["pictures", "scores"])
def test_a_photograph_that_kills_elsewhere(tmp_path: Path, more: str) -> None:
    """While pictures are chosen, or features scored, of another split than the one that is trained on."""
    folder = plant_decoder(tmp_path / "planted")
    train = split_with(tmp_path / "train", SAMPLES, DEADLY, deadly=False)
    deadly = split_with(tmp_path / "deadly", SAMPLES, 3, deadly=True)
    config, run = run_config(train, tmp_path / "runs"), tmp_path / "runs" / "r"
    data = dataclasses.replace(config.data, heldout=str(deadly.folder), max_bad_share=1.0)
    config = dataclasses.replace(config, data=data)
    if more == "pictures":
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, picture_every=5))
    else:
        test = dataclasses.replace(config.eval, every_epochs=1.0, test=str(deadly.folder), samples=SAMPLES)
        config = dataclasses.replace(config, eval=test)
    assert finish(launch(planted, config, folder, 0, 1, 0)) == -signal.SIGSEGV
    assert left_under_way(run)[deadly.manifest.fingerprint].count(3) == 1
    assert finish(launch(planted, config, folder, 0, 1, 0)) == 0
    assert list(read_deadly_samples(run)) == [deadly.manifest.fingerprint]
    assert finish(launch(show_planted, run, folder)) == 0


def show_planted(run: Path, folder: Path) -> None:
    use_planted(folder)
    draw_reconstructions(run)


def test_the_list_is_json_lines(tmp_path: Path) -> None:
    entry = {"fingerprint": "abc", "sample": 3, "reason": "why"}
    (tmp_path / "deadly.jsonl").write_text(json.dumps(entry) + "\n")
    assert read_deadly_samples(tmp_path) == {"abc": {3: "why"}}
    (tmp_path / "deadly.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"deadly\.jsonl is not a list of samples: remove it"):
        read_deadly_samples(tmp_path)


def test_a_stand_in_is_noted_before_it_is_tried(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is decoded where its turn has not come."""
    noted: list[list[int]] = []
    note = UnderWay.note

    def recorded(self: UnderWay, batches: Any) -> None:
        noted.append(batches[-1].tolist())
        note(self, batches)

    monkeypatch.setattr(UnderWay, "note", recorded)
    journal = Journal(folder=tmp_path, rank=0, bad={tiny_split.manifest.fingerprint: {5: "it is bad"}})
    with make_loader(
        tiny_split, size=32, seed=1, global_batch=6, micro_batch=6, threads=1, readers=1, prefetch=1,
        journal=journal, notify=lambda _: None, max_bad_share=1.0,
    ) as loader:  # fmt: skip
        for _ in range(8):
            next(loader)
    assert [6] in noted
