"""Splits on plain web servers: pinned to what they were at the opening, by whatever the server says of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from tests.stores.files import Files, FileServer, file_server, serving

from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.system.remedies import Changed, NoSuchObject, PlaceError
from turbomim.pipeline.tars.split import Split, open_split


class Weak(Files):
    """Has weak ETags."""

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer."""
        tag = {"ETag": f"W/{headers['ETag']}"} if "ETag" in headers else {}
        super().send(status, {**headers, **tag}, body)


class Dated(Files):
    """Has no ETags."""

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer."""
        super().send(status, {name: headers[name] for name in headers if name != "ETag"}, body)


class Whole(SimpleHTTPRequestHandler):
    """Python's own, which gives no ranges."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


@pytest.fixture(params=[Files, Weak, Dated])
def server(request: pytest.FixtureRequest, own_trees: Path) -> Iterator[FileServer]:
    """A server of a split, of each kind."""
    with serving(server := FileServer(own_trees, handler=request.param)):
        yield server


def test_a_split_of_a_file_server(server: FileServer, own_split: Split) -> None:
    split = open_split(server.endpoint)
    assert split.manifest == own_split.manifest
    name = split.manifest.shards[2].name
    found = bytearray(5000)
    assert split.read_into(2, memoryview(found), 300) == 5000
    assert found == own_split.folder.joinpath(name).read_bytes()[300:5300]
    assert split.locate(5) == own_split.locate(5)
    assert split.place.at(name) == f"{server.endpoint}/{name}"


def test_a_split_of_a_file_server_is_verified(server: FileServer, own_trees: Path) -> None:
    assert verify_split(server.endpoint).problems == ()
    (tar, *_) = sorted(own_trees.glob("*.tar"))
    tar.unlink()
    assert [str(problem) for problem in verify_split(server.endpoint).problems] == [f"{tar.name} is missing"]


def test_a_changed_shard_is_no_longer_read(server: FileServer) -> None:
    split = open_split(server.endpoint)
    buffer = memoryview(bytearray(100))
    split.read_into(0, buffer, 0)
    os.utime(server.folder / split.manifest.shards[0].name, (1_000_000, 1_000_000))
    with pytest.raises(Changed, match="was changed since"):
        split.read_into(0, buffer, 0)
    split.read_into(1, buffer, 0)


def test_it_is_only_read(server: FileServer) -> None:
    place = open_place(server.endpoint)
    for ask in (
        place.files,
        lambda: place.put("a", b""),
        lambda: place.copy("manifest.json", "a"),
        lambda: place.delete("manifest.json"),
    ):
        with pytest.raises(PlaceError, match="a server of files") as refused:
            ask()
        assert "store of objects" in refused.value.helps
    assert (server.folder / "manifest.json").exists()


def test_a_server_without_ranges(own_trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_trees)
    with serving(server := FileServer(own_trees, handler=Whole)):  # type: ignore[arg-type]
        split = open_split(server.endpoint)
        with pytest.raises(PlaceError, match="gives no parts of files") as refused:
            split.read_into(0, memoryview(bytearray(10)), 5)
    assert "nginx" in refused.value.helps


def test_who_is_refused(own_trees: Path) -> None:
    with file_server(own_trees, "signed=1") as server:
        with pytest.raises(PlaceError, match="no permission") as refused:
            open_place(server.endpoint).read("manifest.json")
        assert "open them to all" in refused.value.helps
    with file_server(own_trees) as server, pytest.raises(NoSuchObject):
        open_place(server.endpoint).status("none")
