"""Shards made in a store: the same bytes as in a folder, after any kill, by one run at a time.

Planted: a second run that takes a lease whatever its owner does, moves noted before they are made, results
that are kept although their shard was cut, a manifest put without a condition, `.making` left behind.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from turbomim.benchmarks.faults.kill_shard_make import digest, draw_photographs
from turbomim.benchmarks.stores.weed import READ_ONLY, Weed, environment
from turbomim.pipeline.making import store_destination
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.photographs import find_photographs
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.making.shard_job import LEASE, ShardJob, pack_shard
from turbomim.pipeline.making.store_destination import RESULTS
from turbomim.pipeline.places import bucket, lease
from turbomim.pipeline.places.bucket import Bucket
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split

# the second of seven shards has the broken image alone
ONE = ShardSettings(shard_size=1, seed=8)
# a bucket in this process
MEMORY = "s3://memory/split"
CALLS = ("status", "files", "read", "put", "copy", "delete")


def objects(where: str) -> dict[str, str]:
    place = open_place(where)
    return {name: hashlib.sha256(place.read(name)).hexdigest() for name in place.files()}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores in memory instead of servers, empty at the start of the test."""
    stores: dict[str, Any] = {}
    monkeypatch.setattr(bucket, "make_store", lambda where, _: stores.setdefault(where, MemoryStore()))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six images and a broken one, which at one image a shard leaves a gap."""
    return draw_photographs(tmp_path / "photographs", 6)


@pytest.fixture
def local(source: Path, tmp_path: Path) -> dict[str, str]:
    """The files of the shards of `source`, one image a shard."""
    make_shards(source, tmp_path / "local", ONE)
    return digest(tmp_path / "local")


@pytest.mark.parametrize("workers", [1, 2])
def test_objects_are_the_files_of_a_folder(
    workers: int, source: Path, local: dict[str, str], s3: str
) -> None:
    report = make_shards(source, s3, ONE, workers=workers)
    assert objects(s3) == local
    assert (str(report.place), report.kept, report.found_whole) == (s3, 0, False)
    again = make_shards(source, s3, ONE)
    assert again.found_whole and again.manifest == report.manifest
    with pytest.raises(UserError, match=r"holds finished shards with another seed \(8, now 1\)"):
        make_shards(source, s3, ShardSettings(shard_size=1, seed=1))


def test_killed_runs_end_with_the_same_objects(s3: str) -> None:
    words = ["--kills", "5", "--count", "8", "--workers", "1"]
    program = [sys.executable, "-m", "turbomim.benchmarks.faults.kill_store_make", s3, *words]
    run = subprocess.run(program, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stdout + run.stderr
    tally = json.loads(run.stdout.splitlines()[0])
    assert (tally["kills"], tally["different"]) == (5, 0)


class Killed(BaseException):
    """Nothing that the code could handle."""


def killed_at(call: int, action: Callable[[], object]) -> bool:
    """Let the request of this number, and all after it, not be made; whether there was one."""
    calls = 0

    def counting(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise Killed
        return function(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            function = getattr(Bucket, name)
            patch.setattr(Bucket, name, lambda *a, f=function, **k: counting(f, *a, **k))
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.usefixtures("memory")
def test_a_kill_before_any_request(
    source: Path, local: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # its owner is this process
    monkeypatch.setattr(lease, "is_alive", lambda _: False)
    call = moved = 0
    make = partial(make_shards, source, settings=ONE)
    while killed_at(call := call + 1, lambda: make(f"{MEMORY}-{call}")):
        shards = [name for name in open_place(f"{MEMORY}-{call}").files() if name.endswith(".tar")]
        make(f"{MEMORY}-{call}")
        assert objects(f"{MEMORY}-{call}") == local, f"killed at request {call}"
        moved += len(shards) == 6
    # of a shard a look at the lease, two puts, two looks and a result; of a move two copies and a result
    assert call > 75 and moved > 20


@pytest.mark.usefixtures("memory")
def test_a_shard_that_is_gone_while_names_change(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "is_alive", lambda _: False)
    place = open_place(MEMORY)
    for call in itertools.count(40):
        for name in place.files():
            place.delete(name)
        assert killed_at(call, lambda: make_shards(source, MEMORY, ONE))
        if json.loads(place.read(f"{RESULTS}/0000002.json"))["shard"]["name"].endswith("1.tar"):
            break
    # made again, it would replace the shard that has its number now
    place.delete("photographs-train-000001.tar")
    with pytest.raises(UserError, match=r"000001.tar' is gone, or is another shard: remove all"):
        make_shards(source, MEMORY, ONE)


@pytest.mark.usefixtures("memory")
def test_finished_shards_are_not_made_again(source: Path, local: dict[str, str]) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shards(source, MEMORY, ONE, progress=interrupt)
    place = open_place(MEMORY)
    assert len(place.files(RESULTS)) == 4 and LEASE not in place.files()
    with pytest.raises(UserError, match="not finished: run the same `turbomim shard make` again"):
        open_split(MEMORY)
    with pytest.raises(UserError, match="holds an unfinished run with another seed"):
        make_shards(source, MEMORY, ShardSettings(shard_size=1, seed=1))
    tars = [name for name in place.files() if name.endswith(".tar")]
    place.put(tars[0], b"cut")
    place.delete(tars[1].replace(".tar", ".idx"))
    report = make_shards(source, MEMORY, ONE)
    assert report.kept == len(tars) - 2
    assert objects(MEMORY) == local


@pytest.mark.usefixtures("memory")
def test_an_interrupt_while_the_store_is_down(
    source: Path, local: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends in seconds; what was done stays, and the same command goes on."""

    def refuse(*_: object, **__: object) -> None:
        raise GenericError("error sending request")

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            for request in ("put", "get", "head", "list", "delete"):
                down.setattr(f"obstore.{request}", refuse)
            raise KeyboardInterrupt

    monkeypatch.setattr(lease, "is_alive", lambda _: False)
    with pytest.MonkeyPatch.context() as down:
        down.setattr(store_destination, "CLEANING", 0.2)
        down.setattr(lease, "CLOSING", 0.2)
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            make_shards(source, MEMORY, ONE, progress=interrupt)
        # a request is tried for five minutes
        assert time.monotonic() - begun < 60
    report = make_shards(source, MEMORY, ONE)
    assert report.kept == 4 - 1 and objects(MEMORY) == local


@pytest.mark.usefixtures("memory")
def test_a_run_that_made_nothing_leaves_nothing(source: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shards(source, MEMORY, ONE, progress=interrupt)
    assert open_place(MEMORY).files() == {}


@pytest.mark.usefixtures("memory")
def test_a_place_with_strangers_is_refused(source: Path) -> None:
    open_place(MEMORY).put("mine.txt", b"1")
    with pytest.raises(
        UserError, match=r"^'s3://memory/split' is not empty: empty it, or choose another place"
    ):
        make_shards(source, MEMORY, ONE)
    assert list(open_place(MEMORY).files()) == ["mine.txt"]


def test_a_second_run_is_refused_while_the_first_works(source: Path, local: dict[str, str], s3: str) -> None:
    refusals = []

    def second(done: int, total: int) -> None:
        with pytest.raises(UserError) as raised:
            make_shards(source, s3, ONE)
        refusals.append(str(raised.value))

    make_shards(source, s3, ONE, progress=second)
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert set(refusals) == {f"{s3!r} is in use by {owner}: wait for its end, or choose another place"}
    assert objects(s3) == local


def foreign_lease(where: str, **others: Any) -> None:
    """The lease of a process on another machine."""
    owner = {"host": "far", "process": 7, "system": "other", "born": "1", "lease": "theirs", **others}
    open_place(where).put(LEASE, json.dumps(owner).encode())


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT", 0.05), ("SILENCE", 0.3), ("LOOK", 0.05)):
        monkeypatch.setattr(lease, name, seconds)


@pytest.mark.usefixtures("memory", "fast")
def test_a_lease_of_another_machine_is_waited_for(
    source: Path, local: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    foreign_lease(MEMORY)
    make_shards(source, MEMORY, ONE)
    (line,) = capsys.readouterr().err.splitlines()
    assert "was left by process 7 on far, or is in use by it: waiting" in line
    assert objects(MEMORY) == local


@pytest.mark.usefixtures("memory", "fast")
def test_who_lost_the_lease_stops(source: Path) -> None:
    def overtake(done: int, total: int) -> None:
        if done == 2:
            foreign_lease(MEMORY)

    with pytest.raises(UserError, match=r"was taken over by .*: this one stops"):
        make_shards(source, MEMORY, ONE, progress=overtake)
    # it is the other's
    assert json.loads(open_place(MEMORY).read(LEASE))["host"] == "far"


@pytest.mark.usefixtures("memory")
def test_a_worker_of_a_run_that_was_taken_over_writes_nothing(source: Path) -> None:
    foreign_lease(MEMORY)
    job = ShardJob(
        number=0,
        root=str(source),
        folder=MEMORY,
        stem="a-train-000000",
        images=find_photographs(source).images,
        min_side=1,
        check="header",
        on_bad="quarantine",
        store=ONE.stored_as(),
        mark="ours",
    )
    with pytest.raises(UserError, match="was taken over by another process"):
        pack_shard(job)
    assert list(open_place(MEMORY).files()) == [LEASE]
    assert (result := pack_shard(replace(job, mark="theirs"))).shard
    assert sorted(open_place(MEMORY).files()) == [LEASE, "a-train-000000.idx", "a-train-000000.tar"]
    assert result.shard.samples == 6


def test_one_line_each(source: Path, s3: str, store: Weed, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, words in (
        (
            "s3://no-such-bucket/a",
            "^cannot use 's3://no-such-bucket/a': there is no such bucket; check its name",
        ),
        ("https://host/a", "^'https://host/a' can only be read: make shards in a folder, or in s3://"),
        (f"{s3}?token=1", "was given with a user, a password or a query"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            make_shards(source, where, ONE)
        assert "\n" not in str(raised.value)
    for name, value in environment(store.endpoint, READ_ONLY).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^cannot write to {s3!r}: no permission; check the keys"):
        make_shards(source, s3, ONE)
