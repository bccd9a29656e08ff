"""A hub of models that are pushed and fetched, as far as huggingface_hub asks one; it keeps them in memory.

Files that end in .safetensors are large: they come by Git LFS.  Source:
https://huggingface.co/docs/hub/api, https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md, and the
library's code, versions 0.34 and 2.4.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.stores.files import Files, FileServer, serving

# who the token is of, and a name of somebody else
USER, OTHER = "test-people", "other-people"
TOKEN = "hf_secretOfTheModels90ab"


@dataclass
class Repository:
    """A repository: its files now."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)

    def commit(self) -> str:
        """What `main` is now."""
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class ModelHub(FileServer):
    """The hub.  commits: how many there were; silent: part of a path that it does not answer, "" for none."""

    def __init__(self, folder: Path) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.commits = 0
        self.silent, self.closing = "", threading.Event()
        super().__init__(folder, handler=Asked)


class Refused(Exception):
    """Status, the hub's code, and a message."""


class Asked(Files):
    """A connection to the hub."""

    server: ModelHub

    def do_GET(self) -> None:
        """Answer."""
        if self.server.silent and self.server.silent in self.path:
            self.server.closing.wait(60)
            return
        try:
            self._answer(unquote(urlsplit(self.path).path).strip("/"), self._body())
        except Refused as refused:
            status, code, message = refused.args
            self.send(status, {"X-Error-Code": code, "X-Error-Message": message}, b"")

    do_HEAD = do_POST = do_PUT = do_GET

    def _body(self) -> bytes:
        """What was sent, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, path: str, body: bytes) -> None:
        first, *rest = path.removeprefix("api/").split("/")
        if first == "large":
            assert hashlib.sha256(body).hexdigest() == rest[0]
            self.server.large[rest[0]] = body
            self.send(200, {}, b"")
        elif first == "validate-yaml":
            self.send_json({"errors": [], "warnings": []}, {})
        elif path == "api/repos/create":
            self._create(json.loads(body))
        elif path.startswith("api/models/"):
            self._model("/".join(rest[:2]), rest[2:], body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._large(json.loads(body))
        elif path == "api/agent-harnesses":
            # version 2.4 asks once a process
            raise Refused(404, "", "no list of agents")
        else:
            user, name, what, revision, *file = path.split("/")
            assert what == "resolve"
            self._file(self._repository(f"{user}/{name}", revision), "/".join(file))

    def _own(self) -> bool:
        """Whether the token is asked with.  Refuses another one."""
        bearer = self.headers.get("Authorization")
        if bearer not in (None, f"Bearer {TOKEN}"):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return bearer is not None

    def _repository(self, name: str, revision: str = "main") -> Repository:
        """A repository that may be seen, of a revision that is there."""
        found = self.server.repositories.get(name)
        if found is None or (found.private and not (self._own() and name.startswith(f"{USER}/"))):
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        if revision not in ("main", found.commit()):
            raise Refused(404, "RevisionNotFound", "Invalid rev id")
        return found

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        if not self._own():
            raise Refused(401, "", "Invalid username or password.")
        if not name.startswith(f"{USER}/"):
            raise Refused(403, "", "You don't have the rights to create a model under this namespace")
        url = {"url": f"{self.server.endpoint}/{name}"}
        if name in self.server.repositories:
            self.send(409, {}, json.dumps({"error": "You already created this model repo", **url}).encode())
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(bool(private))
        self.send_json(url, {})

    def _model(self, name: str, what: list[str], body: bytes) -> None:
        action, revision = what if what else ("revision", "main")
        found = self._repository(name, revision)
        if action == "preupload":
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": self._oid(found.files.get(each["path"]), each["path"]),
                }
                for each in json.loads(body)["files"]
            ]
            self.send_json({"files": files}, {})
        elif action == "commit":
            if not name.startswith(f"{USER}/"):
                raise Refused(403, "", "You have no rights to push")
            for line in body.splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    found.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    found.files[value["path"]] = self.server.large[value["oid"]]
            self.server.commits += 1
            oid = found.commit()
            url = f"{self.server.endpoint}/{name}/commit/{oid}"
            self.send_json({"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""}, {})
        else:
            about = {"id": name, "sha": found.commit(), "private": found.private}
            self.send_json({**about, "siblings": [{"rfilename": file} for file in sorted(found.files)]}, {})

    @staticmethod
    def _oid(content: bytes | None, name: str) -> str | None:
        """What is there now: sha256 of a large file, git's name of another."""
        if content is None:
            return None
        if name.endswith(".safetensors"):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def _large(self, asked: dict[str, Any]) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.endpoint}/large/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        self.send_json({"transfer": "basic", "objects": objects}, {})

    def _file(self, found: Repository, name: str) -> None:
        if name not in found.files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        content = found.files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.send(200, {"X-Repo-Commit": found.commit(), "ETag": tag}, content)


@contextlib.contextmanager
def model_hub(folder: Path) -> Iterator[ModelHub]:
    """A running hub without models.  folder: any."""
    hub = ModelHub(folder)
    with serving(hub):
        try:
            yield hub
        finally:
            hub.closing.set()
