"""A hub of one private dataset, as far as huggingface_hub asks one, made of a local folder.

Its branch `main` is what the folder holds now.  Tars are large files: `resolve` sends who asks for one to
another server, by a URL that is signed.  Source: https://huggingface.co/docs/hub/api and the library's code.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.stores.files import Files, FileServer, file_server, serving

REPOSITORY = "test-people/trees"
TOKEN = "hf_secretOfTheHub51ce07"
# what signs the URLs of large files
SIGNATURE = "X-Signature=secretOfTheUrl99b1d4"
# entries a page of a listing; the real one has 1,000
PAGE = 5


@functools.lru_cache(maxsize=1000)
def _digests(path: Path, changed_ns: int) -> tuple[str, str]:
    """Git's name of a file, and its sha256."""
    content = path.read_bytes()
    return (
        hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        hashlib.sha256(content).hexdigest(),
    )


def entry(path: Path, name: str) -> dict[str, Any]:
    """A file or folder as listings have it."""
    if path.is_dir():
        return {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name}
    blob, sha256 = _digests(path, path.stat().st_mtime_ns)
    size = path.stat().st_size
    large = {"lfs": {"oid": sha256, "size": size, "pointerSize": 134}} if path.suffix == ".tar" else {}
    return {"type": "file", "oid": blob, "size": size, "path": name, **large}


def _is_below(name: str, folder: str, recursive: bool) -> bool:
    """Whether something is in a folder, "" for the top."""
    parents = [str(parent) for parent in PurePosixPath(name).parents]
    return (folder or ".") in (parents if recursive else parents[:1])


class Hub(FileServer):
    """The hub.  files: where large files are served, by the same names."""

    def __init__(self, folder: Path, files: str) -> None:
        self.files = files
        super().__init__(folder, handler=Asked)

    def listing(self) -> list[dict[str, Any]]:
        """All files and folders, by name."""
        names = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*")}
        return [entry(names[name], name) for name in sorted(names)]

    def commit(self) -> str:
        """What `main` is now: of another state of the folder, another."""
        return hashlib.sha1(repr(self.listing()).encode()).hexdigest()


class Refused(Exception):
    """Status, the hub's code, and a message."""


class Asked(Files):
    """A connection to the hub."""

    server: Hub

    def do_GET(self) -> None:
        """Answer about the dataset, or with a file of it."""
        try:
            what, name = self._asked()
            if what == "resolve":
                self._resolve(name)
            elif what == "tree":
                self._tree(name)
            elif self.command == "POST":
                self._infos()
            else:
                self._about()
        except Refused as refused:
            status, code, message = refused.args
            self.send(status, {"X-Error-Code": code, "X-Error-Message": message}, message.encode())

    do_HEAD = do_POST = do_GET

    def _asked(self) -> tuple[str, str]:
        """What is asked and the path, of a revision that is there."""
        if not (bearer := self.headers.get("Authorization")):
            # the library sees in the URL that no repository was found, but not in one of http://
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        if bearer != f"Bearer {TOKEN}":
            raise Refused(401, "", "Invalid credentials in Authorization header")
        path = urlsplit(self.path).path.removeprefix("/api") + "/"
        if not path.startswith(repository := f"/datasets/{REPOSITORY}/"):
            raise Refused(404, "RepoNotFound", "Repository not found")
        what, _, rest = path.removeprefix(repository).strip("/").partition("/")
        revision, _, name = rest.partition("/")
        if unquote(revision) not in ("", "main", self.server.commit()):
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        return what, unquote(name)

    def _about(self) -> None:
        """Answer about the dataset."""
        names = [found["path"] for found in self.server.listing() if found["type"] == "file"]
        about = {"id": REPOSITORY, "sha": self.server.commit(), "private": True}
        self.send_json({**about, "siblings": [{"rfilename": name} for name in names]}, {})

    def _infos(self) -> None:
        """Answer about some files."""
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_json([found for found in self.server.listing() if found["path"] in asked["paths"]], {})

    def _tree(self, below: str) -> None:
        """Answer with a page of a listing."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        recursive, start = query.get("recursive", "").lower() == "true", int(query.get("cursor", 0))
        entries = [found for found in self.server.listing() if _is_below(found["path"], below, recursive)]
        if below and not entries:
            raise Refused(404, "EntryNotFound", "Entry not found")
        end = start + PAGE
        further = f"{self.server.endpoint}{url.path}?recursive={recursive}&cursor={end}"
        self.send_json(entries[start:end], {"Link": f'<{further}>; rel="next"'} if end < len(entries) else {})

    def _resolve(self, name: str) -> None:
        """Answer with a small file, or with where a large one is."""
        path = self.server.folder / name
        if not path.is_file():
            raise Refused(404, "EntryNotFound", "Entry not found")
        found = entry(path, name)
        headers = {"X-Repo-Commit": self.server.commit(), "ETag": f'"{found["oid"]}"'}
        if "lfs" not in found:
            self.send_file(path, headers)
            return
        linked = {"X-Linked-Etag": f'"{found["lfs"]["oid"]}"', "X-Linked-Size": str(found["size"])}
        location = f"{self.server.files}/{quote(name)}?{SIGNATURE}"
        self.send(302, {**headers, **linked, "Location": location}, b"")


@contextlib.contextmanager
def hub_server(folder: Path, files: str = "") -> Iterator[Hub]:
    """A running hub: TOKEN opens REPOSITORY.  files: the server of large files; "" for one of its own."""
    with contextlib.ExitStack() as stack:
        files = files or stack.enter_context(file_server(folder, SIGNATURE)).endpoint
        hub = Hub(folder, files)
        stack.enter_context(serving(hub))
        yield hub
