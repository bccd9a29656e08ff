"""One owner at a time, in a folder and in a store: also of two that take over at once, and while it is down.

Planted: an owner on this machine that nobody asks after, signs of life that nobody heeds, a takeover without
a condition or a second look, a place that is down and takes the lease, an owner that removes another's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore
from tests.waiting import wait_until

from turbomim.pipeline.places import bucket, lease
from turbomim.pipeline.places.bucket import Bucket
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.lease import Lease, read_lease
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError

NAME = ".making/lease.json"


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place without versions and one with them, and short waits."""
    for name, seconds in (("BEAT", 0.05), ("SILENCE", 0.4), ("LOOK", 0.05), ("SETTLE", 0.05)):
        monkeypatch.setattr(lease, name, seconds)
    store = MemoryStore()
    monkeypatch.setattr(bucket, "make_store", lambda *_: store)
    return open_place(tmp_path if request.param == "folder" else "s3://memory/split")


def lease_of(place: Place, tell: Callable[[str], None] = print) -> Lease:
    return Lease(place, NAME, what="it", other="go", tell=tell)


def foreign(place: Place, beat: int = 0) -> None:
    """The lease of a process on another machine."""
    owner = {"host": "far", "process": 7, "system": "other", "born": "1", "lease": "theirs", "beat": beat}
    place.put(NAME, json.dumps(owner).encode())


def test_the_second_is_refused_and_the_third_need_not_wait(place: Place) -> None:
    with lease_of(place) as first:
        first.take()
        with pytest.raises(UserError, match=rf"^it is in use by process {os.getpid()} on .*: wait for its"):
            lease_of(place).take()
        content = place.read(NAME)
        wait_until(lambda: place.read(NAME) != content)
        first.check()
    assert NAME not in place.files()
    told: list[str] = []
    with lease_of(place, told.append) as third:
        third.take()
        assert third.held and read_lease(place, NAME) == third.mark and not told


def test_one_of_another_machine_is_waited_for(place: Place) -> None:
    foreign(place)
    told: list[str] = []
    begun = time.monotonic()
    with lease_of(place, told.append) as held:
        held.take()
        assert time.monotonic() - begun > lease.SILENCE and held.held
    (line,) = told
    assert line == "it was left by process 7 on far, or is in use by it: waiting 0.4 s to see which"


def test_signs_of_life_are_heeded(place: Place) -> None:
    foreign(place)
    waiting = lease_of(place, lambda _: foreign(place, 2))
    with pytest.raises(UserError, match=r"^it is in use by process 7 on far: wait for its end, or go$"):
        waiting.take()
    assert read_lease(place, NAME) == "theirs"


def test_of_two_that_take_over_one_has_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes between the last look and the write, or right behind it."""
    foreign(place)
    told: list[str] = []
    late, put = lease_of(place, told.append), type(place).put

    def other(self: Place, name: str, content: bytes, **condition: Any) -> str:
        if condition.get("if_absent"):
            return put(self, name, content, **condition)
        monkeypatch.setattr(type(place), "put", put)
        if place.folder is None:
            foreign(place, 5)
            return put(self, name, content, **condition)
        put(self, name, content, **condition)
        foreign(place, 5)
        return ""

    monkeypatch.setattr(type(place), "put", other)
    # a store's is watched again, and is silent from then on; a folder's was written
    if place.folder is None:
        with late:
            late.take()
        assert len(told) == 2
    else:
        with pytest.raises(UserError, match="in use by process 7 on far"):
            late.take()


def test_who_lost_it_stops_and_leaves_the_others(place: Place) -> None:
    with lease_of(place) as held:
        held.take()
        # again and again: a beat on its way in a folder is put over the first
        while held.held:
            foreign(place)
            time.sleep(0.01)
        with pytest.raises(UserError, match=r"^it was taken over by process 7 on far: this one stops"):
            held.check()
    assert read_lease(place, NAME) == "theirs"


def test_one_that_is_gone_is_lost(place: Place) -> None:
    """Another process may have had it, and come to its end."""
    with lease_of(place) as held:
        held.take()
        while held.held:
            place.delete(NAME)
            time.sleep(0.01)
        with pytest.raises(UserError, match="another process was there, or removed it: this one stops"):
            held.check()
    assert NAME not in place.files()


def test_a_place_that_is_down_takes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is told, as another process may have it soon; it is the owner still when the place is back."""

    def down(*_: object, **__: object) -> None:
        raise PlaceError("nobody listens there", "check the network", passing=True)

    with lease_of(place) as held:
        held.take()
        with monkeypatch.context() as patch:
            for kind in (Folder, Bucket):
                for name in ("put", "read", "status", "delete"):
                    patch.setattr(kind, name, down)
            patch.setattr(lease, "SILENCE", 600.0)
            held.check()
            time.sleep(3 * lease.BEAT)
            assert held.held
            patch.setattr(lease, "SILENCE", 0.0)
            with pytest.raises(UserError, match=r"^cannot write '.*lease.json': nobody listens there"):
                held.check()
        content = place.read(NAME)
        wait_until(lambda: place.read(NAME) != content)
        held.check()


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_one_of_a_dead_process_is_taken_at_once(place: Place) -> None:
    child = "import sys; from tests.pipeline.places.test_lease import leave; leave(sys.argv[1])"
    subprocess.run([sys.executable, "-c", child, str(place)], check=False, timeout=60)
    assert NAME in place.files()
    told: list[str] = []
    with lease_of(place, told.append) as held:
        held.take()
        held.check()
    assert not told and place.files() == {}


def leave(where: str) -> None:
    """Die with a lease."""
    lease_of(open_place(where)).take()
    os._exit(9)
