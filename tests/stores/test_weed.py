"""The S3 server of the tests does what S3 does, and goes when its test does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError, PreconditionError
from tests import ROOT
from tests.stores.clients import client
from tests.waiting import wait_until

from turbomim.benchmarks.stores.weed import BAD, FULL, READ_ONLY, Keys, Weed

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def place(s3: str) -> str:
    """The prefix of this test's own place in the bucket."""
    return s3.rpartition("/")[2]


def test_objects_ranges_and_lists(store: Weed, place: str) -> None:
    bucket = client(store.endpoint, prefix=place)
    for name in ("b/2", "a", "b/1"):
        obstore.put(bucket, name, CONTENT)
    assert obstore.head(bucket, "a")["size"] == len(CONTENT)
    ranges = obstore.get_ranges(bucket, "a", starts=[0, 5000, 9000], ends=[10, 5001, 9100])
    assert [bytes(part) for part in ranges] == [CONTENT[:10], CONTENT[5000:5001], CONTENT[9000:9100]]
    assert sorted(found["path"] for found in obstore.list(bucket).collect()) == ["a", "b/1", "b/2"]


def test_writes_on_a_condition(store: Weed, place: str) -> None:
    bucket = client(store.endpoint, prefix=place)
    first = obstore.put(bucket, "a", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(bucket, "a", b"2", mode="create")
    assert first["e_tag"]
    obstore.put(bucket, "a", b"3", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(bucket, "a", b"4", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.get(bucket, "a", options={"if_match": first["e_tag"]})
    assert bytes(obstore.get(bucket, "a").bytes()) == b"3"


@pytest.mark.parametrize("keys", [BAD, Keys(FULL.access, "wrong")], ids=["unknown", "wrong secret"])
def test_strangers_are_refused(store: Weed, place: str, keys: Keys) -> None:
    obstore.put(client(store.endpoint, prefix=place), "a", CONTENT)
    with pytest.raises(PermissionDeniedError):
        obstore.get(client(store.endpoint, keys, prefix=place), "a")


def test_who_may_only_read(store: Weed, place: str) -> None:
    obstore.put(client(store.endpoint, prefix=place), "a", CONTENT)
    reader = client(store.endpoint, READ_ONLY, prefix=place)
    assert bytes(obstore.get(reader, "a").bytes()) == CONTENT
    with pytest.raises(PermissionDeniedError):
        obstore.put(reader, "b", CONTENT)


def test_a_write_makes_no_bucket(store: Weed) -> None:
    with pytest.raises(FileNotFoundError):
        obstore.put(client(store.endpoint, bucket="other-bucket"), "a", b"1")


def test_killed_and_started_again(store: Weed, place: str) -> None:
    bucket = client(store.endpoint, prefix=place)
    obstore.put(bucket, "a", CONTENT)
    endpoint = store.endpoint
    store.kill()
    with pytest.raises(GenericError):
        obstore.get(bucket, "a")
    store.start_again()
    assert store.endpoint == endpoint
    assert bytes(obstore.get(bucket, "a").bytes()) == CONTENT


OWNER = """
import os, signal, sys
from pathlib import Path
from turbomim.benchmarks.stores.weed import Weed
server = Weed(Path(sys.argv[1]))
server.start()
assert all(Path(socket).exists() for socket in server.sockets)
print(f"/proc/{server.pid}", *server.sockets, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_goes_with_all_it_has_when_its_owner_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "store")]
    owner = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert owner.returncode == -signal.SIGKILL, owner.stderr
    left = owner.stdout.split()
    wait_until(lambda: not [path for path in left if Path(path).exists()])


def test_a_folder_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server works in its folder, where a relative path would name another."""
    monkeypatch.chdir(tmp_path)
    assert Weed(Path("server")).folder == tmp_path / "server"
