"""A run's mirror has what the run folder has, and a bare machine goes on from it as if nothing had been.

Planted bugs and the test that fails on each: checksums that nobody looks at,
`test_what_is_not_whole_is_passed_over`; a checkpoint that counts before its log, or one that is removed
while it is copied, `test_what_is_being_copied_stays_on_the_disk`; no copy of the one to roll back to,
`test_the_one_to_roll_back_to_is_copied_first_and_kept`; other settings that nobody compares,
`test_a_run_with_other_settings_is_refused`; a checkpoint that has its name before its log is there,
`test_killed_while_it_comes_from_the_mirror`.
"""

from __future__ import annotations

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
from tests.runs import finish, killed_at_the_end, outcome, status, wait_for
from tests.train.folder.mirroring import (
    assert_mirrored,
    bare,
    content,
    hurried,
    hurry,
    log,
    mirrored,
    refusal,
    said,
    start,
    there,
    write,
)

from turbomim.benchmarks.stores.weed import BAD, FULL
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint, from_mirror
from turbomim.train.folder.checkpoint import Snapshot, State
from turbomim.train.folder.copied import whole_in
from turbomim.train.folder.from_mirror import take_from_mirror
from turbomim.train.folder.mirror import Mirror
from turbomim.train.loop.checkpoints import Saver
from turbomim.train.settings.config import Config


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


@pytest.mark.parametrize("where", ["https://host/runs", "http://127.0.0.1:1/runs", "hf://datasets/me/runs"])
def test_a_place_that_is_only_read_is_no_mirror(tmp_path: Path, where: str) -> None:
    with pytest.raises(UserError, match=rf"^run.mirror = {where}: is only read; give a folder, or s3://, gs"):
        Mirror(mirrored(tmp_path, tmp_path, where), print)


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
