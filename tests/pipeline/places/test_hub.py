"""Data sets of the hub: pinned to a commit, read by ranges, and what is said where they cannot be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from tests.stores.files import Files
from tests.stores.hub import REPOSITORY, TOKEN, Hub, hub_server

from turbomim.pipeline.checking.verify import verify_split
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import NoSuchObject, PlaceError
from turbomim.pipeline.tars.split import Split, open_split

URL = f"hf://datasets/{REPOSITORY}"


@pytest.fixture
def hub(own_trees: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of a split, in its folder `split`, and the token for it."""
    with hub_server(own_trees.parent) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def refusal(place: Place) -> PlaceError:
    """What a place says when it is listed."""
    with pytest.raises(PlaceError) as refused:
        place.files()
    assert TOKEN not in f"{refused.value} {refused.value.helps}"
    return refused.value


def test_a_split_of_the_hub(hub: Hub, own_split: Split) -> None:
    split = open_split(f"{URL}/split")
    assert split.manifest == own_split.manifest
    assert str(split.place) == f"{URL}/split"
    name = split.manifest.shards[1].name
    assert split.place.at(name) == f"{URL}/split/{name}"
    content, found = own_split.folder.joinpath(name).read_bytes(), bytearray(1000)
    assert split.read_into(1, memoryview(found), 700) == 1000
    assert found == content[700:1700]
    assert split.versions[1] == split.manifest.shards[1].sha256
    assert split.locate(20) == own_split.locate(20)


def test_a_split_of_the_hub_is_verified(hub: Hub, own_trees: Path) -> None:
    assert verify_split(f"{URL}/split").problems == ()
    (tar, *_) = sorted(own_trees.glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1] + b"1")
    # another commit
    assert len(found := verify_split(f"{URL}/split").problems) == 2
    assert "has changed: its sha256 is not the manifest's" in str(found[0])


def test_listing(hub: Hub, own_trees: Path) -> None:
    place = open_place(URL)
    files = {path.name: path.stat().st_size for path in own_trees.iterdir()}
    listed = {f"split/{name}": size for name, size in sorted(files.items())}
    assert {name: status.bytes for name, status in place.files().items()} == listed
    assert list(place.files("split")) == list(listed)
    assert list(place.below("split").files()) == sorted(files)
    assert place.below("none").files() == {}
    assert place.status("split/manifest.json") == place.files()["split/manifest.json"]
    for asked in (place.status, place.read):
        with pytest.raises(NoSuchObject):
            asked("split/none")


def test_no_push_changes_what_is_read(hub: Hub, own_trees: Path) -> None:
    place = open_place(URL)
    place.files()
    (own_trees / "manifest.json").write_text("{}")
    # the hub that stands in here forgets old commits
    for asked in (place.read, place.below("split").read):
        with pytest.raises(NoSuchObject):
            asked("manifest.json")
    assert open_place(f"{URL}@main/split").read("manifest.json") == b"{}"
    assert open_place(f"{URL}@{hub.commit()}/split").read("manifest.json") == b"{}"


def test_limits_of_the_rate_pass(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    place = open_place(f"{URL}/split")
    expected = place.read("manifest.json")
    send_file, asked = Files.send_file, itertools.count()

    def limited(self: Files, path: Path, headers: dict[str, str]) -> None:
        if next(asked) == 0:
            self.send(429, {"Retry-After": "1"}, b"")
        else:
            send_file(self, path, headers)

    monkeypatch.setattr(Files, "send_file", limited)
    assert place.read("manifest.json") == expected
    assert next(asked) == 2


@pytest.mark.parametrize("url", ["hf://datasets/trees", "hf://models/a/b", "hf://spaces/a/b", "hf://"])
def test_no_data_set(url: str) -> None:
    with pytest.raises(UserError, match=r"hf://datasets/OWNER/NAME|names no"):
        open_place(url)


def test_unknown_names(hub: Hub) -> None:
    error = refusal(open_place("hf://datasets/test-people/none"))
    assert "no such data set" in str(error) and "hf auth login" in error.helps
    error = refusal(open_place(f"{URL}@v9"))
    assert "no revision 'v9'" in str(error)
    error = refusal(open_place("hf://datasets/a..b/c"))
    assert "called that" in str(error)


def test_no_token(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "hf auth login" in refusal(open_place(URL)).helps
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "hf auth login" in refusal(open_place(URL)).helps


def test_a_token_that_expires_is_renewed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    place = open_place(f"{URL}/split")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    place._data_set._commit = hub.commit()  # type: ignore[attr-defined]
    place._files()  # type: ignore[attr-defined]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert place.read("manifest.json")


def test_it_is_only_read(hub: Hub) -> None:
    place = open_place(f"{URL}/split")
    for write in (
        lambda: place.put("a", b""),
        lambda: place.copy("manifest.json", "a"),
        lambda: place.delete("manifest.json"),
    ):
        with pytest.raises(PlaceError) as refused:
            write()
        assert f"hf upload {REPOSITORY} FOLDER split" in refused.value.helps
