"""The web server and the hub of the tests, as obstore and huggingface_hub see them."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from obstore.exceptions import GenericError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import HTTPStore
from tests.stores.files import FileServer, file_server, span
from tests.stores.hub import PAGE, REPOSITORY, SIGNATURE, TOKEN, Hub, hub_server

from turbomim.benchmarks.stores.fault_proxy import fault_proxy

CONTENT = bytes(range(256)) * 40


def http(url: str, **headers: str) -> HTTPStore:
    """A client that never asks twice."""
    return HTTPStore.from_url(
        url,
        client_options={"allow_http": True, "timeout": timedelta(seconds=10), "default_headers": headers},
        retry_config={"max_retries": 0},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars in a folder below, and more small files than a page of a listing has."""
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    for name in ("train/0.tar", "train/1 a.tar"):
        (folder / name).write_bytes(CONTENT + name.encode())
    for number in range(PAGE):
        (folder / f"{number}.json").write_text("{}")
    return folder


@pytest.fixture
def files(folder: Path) -> Iterator[FileServer]:
    """A server of them."""
    with file_server(folder) as server:
        yield server


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    """A hub of them."""
    with hub_server(folder) as hub:
        yield hub


@pytest.mark.parametrize(
    ("header", "expected"),
    [("bytes=0-0", (0, 1)), ("bytes=5-", (5, 10)), ("bytes=-3", (7, 10)), ("bytes=8-99", (8, 10))],
)
def test_spans(header: str, expected: tuple[int, int]) -> None:
    assert span(header, 10) == expected


@pytest.mark.parametrize(
    "header", ["bytes=10-", "bytes=4-2", "bytes=-", "bytes=-0", "rows=1-2", "bytes=0-1,3-4"]
)
def test_spans_of_nothing(header: str) -> None:
    with pytest.raises(ValueError, match=header):
        span(header, 10)


def test_files_by_http(files: FileServer, folder: Path) -> None:
    store = http(files.endpoint)
    whole = obstore.get(store, "train/1 a.tar")
    assert bytes(whole.bytes()) == CONTENT + b"train/1 a.tar"
    assert bytes(obstore.get_range(store, "train/0.tar", start=300, end=310)) == CONTENT[300:310]
    assert obstore.head(store, "train/0.tar")["size"] == len(CONTENT) + len("train/0.tar")
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "train/2.tar")
    with pytest.raises(GenericError, match="416"):
        obstore.get_range(store, "0.json", start=100, end=110)


def test_a_changed_file_is_another_version(files: FileServer, folder: Path) -> None:
    store = http(files.endpoint)
    version = obstore.head(store, "0.json")["e_tag"]
    obstore.get(store, "0.json", options={"if_match": version})
    os.utime(folder / "0.json", (1, 1))
    with pytest.raises(PreconditionError):
        obstore.get(store, "0.json", options={"if_match": version})


def test_nothing_above_the_folder(files: FileServer, tmp_path: Path) -> None:
    (tmp_path / "above").write_text("")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{files.endpoint}/..%2Fabove", timeout=10)


def test_signed_urls(folder: Path) -> None:
    with file_server(folder, SIGNATURE) as files:
        url = f"{files.endpoint}/0.json"
        with pytest.raises(PermissionDeniedError):
            obstore.get(http(files.endpoint), "0.json")
        assert urllib.request.urlopen(f"{url}?{SIGNATURE}", timeout=10).read() == b"{}"
        twice = urllib.request.Request(f"{url}?{SIGNATURE}", headers={"Authorization": f"Bearer {TOKEN}"})
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(twice, timeout=10)


def test_listings_of_the_hub(hub: Hub) -> None:
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    small = [f"{number}.json" for number in range(PAGE)]
    whole = list(api.list_repo_tree(REPOSITORY, recursive=True, revision="main", repo_type="dataset"))
    assert [found.path for found in whole] == [*small, "train", "train/0.tar", "train/1 a.tar"]
    top = api.list_repo_tree(REPOSITORY, repo_type="dataset")
    assert [found.path for found in top] == [*small, "train"]
    below = list(api.list_repo_tree(REPOSITORY, "train", repo_type="dataset"))
    assert [found.path for found in below] == ["train/0.tar", "train/1 a.tar"]
    some = api.get_paths_info(REPOSITORY, ["train/0.tar", "none"], repo_type="dataset")
    assert [(found.path, found.size, found.lfs is None) for found in some] == [  # type: ignore[union-attr]
        ("train/0.tar", len(CONTENT) + 11, False)
    ]


def test_revisions_of_the_hub(hub: Hub, folder: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    commit = api.dataset_info(REPOSITORY).sha
    assert api.dataset_info(REPOSITORY, revision=commit).sha == commit
    (folder / "0.json").write_text("{} ")
    assert api.dataset_info(REPOSITORY).sha != commit
    with pytest.raises(RevisionNotFoundError):
        list(api.list_repo_tree(REPOSITORY, revision=commit, repo_type="dataset"))


def test_files_of_the_hub(hub: Hub) -> None:
    base = hf_hub_url(REPOSITORY, "", repo_type="dataset", revision="main", endpoint=hub.endpoint)
    store = http(base.rstrip("/"), authorization=f"Bearer {TOKEN}")
    assert bytes(obstore.get_range(store, "train/0.tar", start=300, end=310)) == CONTENT[300:310]
    assert bytes(obstore.get(store, "train/1 a.tar").bytes()) == CONTENT + b"train/1 a.tar"
    assert bytes(obstore.get(store, "0.json").bytes()) == b"{}"
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "train/2.tar")


def test_large_files_come_from_elsewhere(folder: Path) -> None:
    with (
        file_server(folder, SIGNATURE) as files,
        fault_proxy(files.endpoint) as counted,
        hub_server(folder, counted.endpoint) as hub,
    ):
        api = HfApi(endpoint=hub.endpoint, token=TOKEN)
        for name in ("train/0.tar", "0.json"):
            api.hf_hub_download(REPOSITORY, name, repo_type="dataset", local_dir=folder.parent / "copy")
        assert (folder.parent / "copy" / "train" / "0.tar").read_bytes() == CONTENT + b"train/0.tar"
        assert counted.sent == {"/train/0.tar": len(CONTENT) + 11}


def test_who_is_refused_by_the_hub(hub: Hub) -> None:
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.endpoint, token=False).dataset_info(REPOSITORY)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(endpoint=hub.endpoint, token="hf_other").dataset_info(REPOSITORY)
    base = f"{hub.endpoint}/datasets/{REPOSITORY}/resolve/main"
    with pytest.raises(UnauthenticatedError):
        obstore.get(http(base), "0.json")
    with pytest.raises(UnauthenticatedError):
        obstore.get(http(base, authorization="Bearer hf_other"), "0.json")
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("test-people/none")
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPOSITORY, "none", repo_type="dataset"))
