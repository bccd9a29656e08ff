"""A data set of the Hugging Face Hub as a place that is only read.

huggingface_hub lists it and finds the token, which goes to the hub alone; obstore reads ranges of its files.
Source of the URLs: https://huggingface.co/docs/hub/api
"""

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import unquote

from turbomim.pipeline.places.bucket import Bucket
from turbomim.pipeline.places.endpoints import check_endpoints
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.places.refusals import explain_failure
from turbomim.pipeline.places.retries import persistently
from turbomim.pipeline.system.errors import UserError, without_password
from turbomim.pipeline.system.remedies import NoSuchObject, PlaceError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

T = TypeVar("T")

URL = re.compile(r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<folder>.*))?")
LOGIN = "check the name; for a private data set run `hf auth login`, or set HF_TOKEN"
# seconds for one answer about a data set
TIMEOUT = 20.0


class DataSet:
    """A data set at the commit that its revision is when it is first asked: no push changes what a run reads.

    revision: a branch, a tag or a commit, "" for the main branch.
    """

    def __init__(self, name: str, revision: str) -> None:
        self.name, self.revision = name, revision
        self._lock = Lock()
        self._commit = ""

    @cached_property
    def api(self) -> "HfApi":
        """The hub's client, with the token that it finds by itself."""
        from huggingface_hub import HfApi

        return HfApi(library_name="turbomim")

    def headers(self) -> dict[str, str]:
        """What opens a private data set; the client renews what expires."""
        from huggingface_hub.utils._headers import build_hf_headers

        headers: dict[str, str] = build_hf_headers(library_name="turbomim")
        return headers

    @property
    def commit(self) -> str:
        """The commit."""
        with self._lock:
            if not self._commit:
                about = self.ask(
                    "its commit",
                    lambda api: api.dataset_info(self.name, revision=self.revision or None, timeout=TIMEOUT),
                )
                self._commit = about.sha or ""
            return self._commit

    def files(self, folder: str) -> list["RepoFile"]:
        """List the files in a folder of it and in the folders there; none where there is no such folder."""
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        commit = self.commit

        def pages(api: "HfApi") -> list[RepoFile]:
            try:
                tree = api.list_repo_tree(
                    self.name, folder or None, recursive=True, revision=commit, repo_type="dataset"
                )
                return [entry for entry in tree if isinstance(entry, RepoFile)]
            except EntryNotFoundError:
                return []

        return self.ask("listing", pages)

    def ask(self, what: str, request: Callable[["HfApi"], T]) -> T:
        """Ask the hub, again where it fails in passing.  Raises PlaceError."""

        def once() -> T:
            try:
                return request(self.api)
            except Exception as error:
                raise self._refusal(error) from error

        return persistently(once, f"hf://datasets/{self.name} ({what})", answered=bool(self._commit))

    def _refusal(self, error: Exception) -> PlaceError:
        """Turn an error of huggingface_hub into ours."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if isinstance(error, GatedRepoError):
            where = f"{without_password(self.api.endpoint)}/datasets/{self.name}"
            return PlaceError(
                "its owner lets in who agrees to terms",
                f"agree at {where}, then run `hf auth login`",
            )
        if isinstance(error, RevisionNotFoundError):
            return NoSuchObject(f"the data set has no revision {self.revision!r}", "check what follows the @")
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404):
            return NoSuchObject("there is no such data set, or no permission to read it", LOGIN)
        if isinstance(error, ValueError):
            return PlaceError("no data set can be called that", "give hf://datasets/OWNER/NAME")
        return explain_failure(str(error), status, scheme="hf")


class Hub(Place):
    """A data set of the Hugging Face Hub, or a folder of one.  files: of one that was opened before."""

    def __init__(self, where: str, data_set: DataSet | None = None) -> None:
        parts = URL.fullmatch(where.rstrip("/"))
        if parts is None:
            raise UserError(f"{where!r} names no data set: give hf://datasets/OWNER/NAME[@REVISION][/FOLDER]")
        check_endpoints("hf")
        self._where = where.rstrip("/")
        self._folder = (parts["folder"] or "").strip("/")
        self._data_set = data_set or DataSet(parts["name"], unquote(parts["revision"] or ""))
        self._lock = Lock()
        self._bucket: Bucket | None = None

    def __str__(self) -> str:
        return self._where

    def at(self, name: str) -> str:
        """Give the URL of a file."""
        return f"{self._where}/{name}"

    def below(self, name: str) -> Self:
        """Give the place that a folder in it is, at the same commit."""
        return type(self)(self.at(name), self._data_set)

    def status(self, name: str) -> Status:
        """Ask for the size of a file, and what its content is called."""
        path, commit = self._path(name), self._data_set.commit
        found = self._data_set.ask(
            "size",
            lambda api: api.get_paths_info(self._data_set.name, [path], revision=commit, repo_type="dataset"),
        )
        files = [_status_of(entry) for entry in found if hasattr(entry, "size")]
        if not files:
            raise NoSuchObject("there is no such file")
        return files[0]

    def statuses(self, names: Iterable[str]) -> list[Status | OSError]:
        """Ask for many files at once, by a listing."""
        found = self.files()
        return [found.get(name) or NoSuchObject("there is no such file") for name in names]

    def files(self, below: str = "") -> dict[str, Status]:
        """List the files in it, by name."""
        listed = self._data_set.files(self._path(below))
        skipped = len(self._path(""))
        return dict(sorted((entry.path[skipped:].lstrip("/"), _status_of(entry)) for entry in listed))

    def read(self, name: str) -> bytes:
        """Read a whole file, in one request."""
        return self._files().read(name)

    def read_into(
        self, name: str, buffer: memoryview, offset: int, *, version: str = "", halt: Event | None = None
    ) -> int:
        """Fill `buffer` from a file.  Its version is that of the commit, which nobody changes."""
        return self._files().read_into(name, buffer, offset, halt=halt)

    def put(self, name: str, content: bytes | Path, *, if_absent: bool = False, version: str = "") -> str:
        """Refuse: it is only read."""
        self._refuse()

    def copy(self, name: str, to: str) -> None:
        """Refuse: it is only read."""
        self._refuse()

    def delete(self, name: str) -> None:
        """Refuse: it is only read."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        upload = f"hf upload {self._data_set.name} FOLDER {self._folder or '.'} --repo-type dataset"
        raise PlaceError("a data set of the hub is only read", f"write to a folder, then run `{upload}`")

    def _path(self, name: str) -> str:
        """Where a file is in the data set."""
        return "/".join(part for part in (self._folder, name) if part)

    def _files(self) -> Bucket:
        """The files of the commit by HTTP."""
        with self._lock:
            if self._bucket is None:
                data_set = self._data_set
                url = f"{data_set.api.endpoint}/datasets/{data_set.name}/resolve/{data_set.commit}"
                self._bucket = Bucket(f"{url}/{self._folder}", headers=data_set.headers, shown=self._where)
            return self._bucket


def _status_of(entry: Any) -> Status:
    """Size and content of a file; of a large one the sha256, else git's name of it."""
    return Status(bytes=entry.size, version=entry.lfs.sha256 if entry.lfs else entry.blob_id)
