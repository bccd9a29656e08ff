"""A place in a real store does what a folder does, and says in one line what it cannot do.

Planted, each seen to fail: names that are quoted twice; a listing of its first page; a whole object that is
read without a range (`test_a_whole_object_that_is_cut`); a version that is not compared; a condition that an
earlier attempt of its own broke; a client that is not made anew.
"""

from pathlib import Path

import pytest

from turbomim.benchmarks.stores.fault_proxy import FaultProxy
from turbomim.benchmarks.stores.faults import Fault, first
from turbomim.pipeline.places import bucket as bucket_file
from turbomim.pipeline.places import stores
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.system.remedies import Changed, Exists, PlaceError

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of each kind."""
    if request.param == "folder":
        return Folder(tmp_path / "place")
    return open_place(f"{request.getfixturevalue('s3')}/a place/ö")


NAMES = ["b c/ü%20+&.tar", "empty", "z"]


def test_what_is_put_is_there(place: Place, tmp_path: Path) -> None:
    """Names with spaces, percent signs and letters of other languages; no bytes, some, and a file."""
    (tmp_path / "file").write_bytes(CONTENT)
    contents: list[bytes | Path] = [CONTENT, b"", tmp_path / "file"]
    for name, content in zip(NAMES, contents, strict=True):
        place.put(name, content)
    assert list(place.files()) == NAMES
    assert [place.read(name) for name in NAMES] == [CONTENT, b"", CONTENT]
    assert [status.bytes for status in place.files().values()] == [len(CONTENT), 0, len(CONTENT)]
    assert place.statuses(["z", "empty"]) == [place.status("z"), place.status("empty")]
    (absent,) = place.statuses(["not there"])
    assert isinstance(absent, FileNotFoundError)
    assert list(place.files("b c")) == NAMES[:1]
    assert place.files_here() == {name: place.status(name) for name in NAMES[1:]}
    assert place.statuses(NAMES) == [place.status(name) for name in NAMES]
    assert list(place.below("b c").files()) == ["ü%20+&.tar"]
    place.copy("z", "y")
    place.delete("z")
    place.delete("z")
    assert list(place.files()) == [*NAMES[:2], "y"]


def test_parts_are_read_into_memory(place: Place) -> None:
    version = place.put("a", CONTENT)
    buffer = bytearray(100)
    assert place.read_into("a", memoryview(buffer), 300, version=version) == 100
    assert buffer == CONTENT[300:400]
    # the end comes first
    assert place.read_into("a", memoryview(buffer), len(CONTENT) - 30, version=version) == 30
    assert buffer[:30] == CONTENT[-30:]
    assert place.read_into("a", memoryview(b""), 0) == 0
    with pytest.raises(FileNotFoundError):
        place.read_into("b", memoryview(buffer), 0)


def test_writes_with_a_condition(place: Place) -> None:
    version = place.put("a", b"1", if_absent=True)
    with pytest.raises(Exists):
        place.put("a", b"2", if_absent=True)
    assert place.read("a") == b"1"
    if version:
        other = place.put("a", b"3", version=version)
        with pytest.raises(Exists):
            place.put("a", b"4", version=version)
        assert place.read("a") == b"3" and place.status("a").version == other


def test_a_listing_of_many_pages(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's own pages have 1,000 objects."""
    from turbomim.pipeline.system.executors import on_threads

    monkeypatch.setattr(bucket_file, "PAGE", 400)
    place = open_place(s3)
    names = [f"{number:04d}" for number in range(1010)]
    on_threads(lambda name: place.put(name, b"x"), names)
    assert list(place.files()) == list(place.files_here()) == names
    assert place.statuses([*names[::-1], "no"])[:2] == [place.files()["1009"], place.files()["1008"]]


def test_what_lies_in_folders_beside_is_not_listed(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs beside shards would cost pages of a listing."""
    place = open_place(s3)
    for name in ("a.tar", "runs/a/b", "runs/c"):
        place.put(name, b"x")
    monkeypatch.delattr("obstore.list")
    assert list(place.files_here()) == ["a.tar"]
    (found,) = place.statuses(["a.tar"])
    assert isinstance(found, Status) and found.bytes == 1


# what is not of the body of an answer, and what is
PASSING = [fault for fault in Fault if fault is not Fault.ETAG]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: fault.name)
def test_what_passes_is_asked_again(proxy: FaultProxy, s3: str, fault: Fault) -> None:
    """Of every kind, twice in a row, for a part, a whole object, a status and a listing."""
    place = open_place(s3)
    version = place.put("a", CONTENT)
    proxy.plan = first(2, fault)
    before = TRAFFIC.retries.copy()
    buffer = bytearray(2000)
    assert place.read_into("a", memoryview(buffer), 1000, version=version) == 2000
    assert buffer == CONTENT[1000:3000]
    assert proxy.injected == {fault: 2}
    counted = TRAFFIC.retries - before
    assert counted.total() == 2 and len(counted) == 1, "one cause, without numbers that differ"


@pytest.mark.parametrize("fault", [Fault.SHORT, Fault.LONG, Fault.WRONG_LENGTH], ids=lambda fault: fault.name)
def test_a_whole_object_that_is_cut(proxy: FaultProxy, s3: str, fault: Fault) -> None:
    place = open_place(s3)
    place.put("a", CONTENT)
    proxy.plan = first(1, fault)
    assert place.read("a") == CONTENT
    assert proxy.injected == {fault: 1}


@pytest.mark.parametrize("fault", [Fault.SHORT, Fault.TRUNCATED, Fault.ERROR], ids=lambda fault: fault.name)
def test_a_listing_that_is_cut(proxy: FaultProxy, s3: str, fault: Fault) -> None:
    place = open_place(s3)
    for name in "abc":
        place.put(name, CONTENT)
    proxy.plan = first(1, fault)
    assert list(place.files()) == ["a", "b", "c"]
    assert proxy.injected == {fault: 1}


def test_a_changed_object_is_no_passing_fault(proxy: FaultProxy, s3: str) -> None:
    """Whether the store says so, or its ETag; and its name is in the line."""
    place = open_place(s3)
    version = place.put("a", CONTENT)
    buffer = memoryview(bytearray(10))
    proxy.plan = first(1, Fault.ETAG)
    with pytest.raises(Changed, match=r"^s3://\S+/a was changed since it was opened$"):
        place.read_into("a", buffer, 0, version=version)
    place.put("a", CONTENT[::-1])
    asked = len(proxy.exchanges)
    with pytest.raises(Changed, match=r"^s3://\S+/a was changed since it was opened$"):
        place.read_into("a", buffer, 0, version=version)
    assert len(proxy.exchanges) == asked + 1, "asked again"


def test_a_weak_version_is_compared_and_never_asked_for(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP forbids weak ETags in If-Match: a server would say that every object is another."""
    place = open_place(s3)
    place.put("a", CONTENT)
    buffer = memoryview(bytearray(10))
    real = bucket_file._status_of

    def weak(item: object, **options: bool) -> Status:
        status = real(item, **options)  # type: ignore[arg-type]
        return Status(bytes=status.bytes, version=f'W/"{status.version}"', changed_ns=0)

    monkeypatch.setattr(bucket_file, "_status_of", weak)
    version = place.status("a").version
    assert version.startswith('W/"')
    assert place.read_into("a", buffer, 0, version=version) == 10
    place.put("a", CONTENT[::-1])
    with pytest.raises(Changed):
        place.read_into("a", buffer, 0, version=version)


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_lost_answer_to_a_write_with_a_condition(proxy: FaultProxy, s3: str, old: bytes | None) -> None:
    """The attempt after it finds what the one before wrote, and that is no one else's."""
    place = open_place(s3)
    version = place.put("a", old) if old else ""

    def fail_once(fault: Fault) -> None:
        at = len(proxy.exchanges)
        proxy.plan = lambda request: fault if request.number == at else None

    fail_once(Fault.LOST)
    assert place.put("a", b"new", if_absent=not version, version=version) == place.status("a").version
    assert place.read("a") == b"new"
    fail_once(Fault.ERROR)
    with pytest.raises(Exists):
        place.put("a", b"newer", if_absent=True)
    assert proxy.injected == {Fault.LOST: 1, Fault.ERROR: 1}


def test_expired_credentials_are_asked_for_again(
    proxy: FaultProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    real = stores.make_store

    def make(where: str, headers: dict[str, str] | None = None) -> object:
        made.append(where)
        return real(where, headers)

    monkeypatch.setattr(bucket_file, "make_store", make)
    place = open_place(s3)
    place.put("a", CONTENT)
    proxy.plan = first(1, Fault.EXPIRED)
    assert place.read("a") == CONTENT
    assert made == [s3, s3]


def test_an_unreachable_store(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from turbomim.pipeline.places import retries

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(retries, "LIMIT_NEW", 0.5)
    with pytest.raises(PlaceError, match=r"^nobody listens there \(tried for [01] s\)$") as raised:
        open_place(s3).read("a")
    assert "AWS_ENDPOINT_URL" in raised.value.helps


def test_a_client_that_breaks_down(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its panic is no Exception, and would end a run in passing over every handler."""
    monkeypatch.setattr(stores, "check_endpoints", lambda _: None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(PlaceError, match=r"^its client broke down$") as raised:
        open_place(s3).read("a")
    assert raised.value.helps == "check the URL, AWS_ENDPOINT_URL and the keys in the environment"
