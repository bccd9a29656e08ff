"""A read-only HTTP server of a folder, with ranges, ETags and conditions, as a static web server has them."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from turbomim.benchmarks.stores.weed import HOST


def span(header: str, size: int) -> tuple[int, int]:
    """First byte and end of a Range header of one range.  Raises ValueError if the file has none of it."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if not found or found[0] == "bytes=-":
        raise ValueError(header)
    if not found[1]:
        start, end = max(size - int(found[2]), 0), size
    else:
        start, end = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    if start >= end:
        raise ValueError(header)
    return start, end


class Files(BaseHTTPRequestHandler):
    """A connection that asks for files of the server's folder."""

    server: FileServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle(self) -> None:
        """Serve requests until either side ends the connection."""
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        """Answer with a file, or why not."""
        url = urlsplit(self.path)
        path = (self.server.folder / unquote(url.path).lstrip("/")).resolve()
        if self.server.query and self.headers.get("Authorization"):
            self.send(400, {}, b"signed twice")
        elif url.query != self.server.query:
            self.send(403, {}, b"not signed")
        elif not path.is_relative_to(self.server.folder) or not path.is_file():
            self.send(404, {}, b"no such file")
        else:
            self.send_file(path, {})

    do_HEAD = do_GET

    def send_file(self, path: Path, headers: Mapping[str, str]) -> None:
        """Answer with the asked range of a file.  headers: over the usual ones."""
        status, content = path.stat(), path.read_bytes()
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        changed = formatdate(status.st_mtime, usegmt=True)
        about = {"ETag": tag, "Last-Modified": changed, "Accept-Ranges": "bytes", **headers}
        if self.headers.get("If-Match", about["ETag"]) not in ("*", about["ETag"]):
            self.send(412, about, b"")
        elif not (asked := self.headers.get("Range")):
            self.send(200, about, content)
        else:
            try:
                start, end = span(asked, len(content))
            except ValueError:
                self.send(416, {**about, "Content-Range": f"bytes */{len(content)}"}, b"")
                return
            where = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
            self.send(206, {**about, **where}, content[start:end])

    def send_json(self, answer: object, headers: Mapping[str, str]) -> None:
        """Answer with JSON."""
        self.send(200, {"Content-Type": "application/json", **headers}, json.dumps(answer).encode())

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer."""
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


class FileServer(ThreadingHTTPServer):
    """A server of a folder.  query: what every URL must end with, as a signed one does; "" for none."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path, query: str = "", handler: type[Files] = Files) -> None:
        self.folder, self.query = folder.resolve(), query
        super().__init__((HOST, 0), handler)

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.server_address[1]}"


@contextlib.contextmanager
def serving(server: FileServer) -> Iterator[None]:
    """The server answers meanwhile."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def file_server(folder: Path, query: str = "") -> Iterator[FileServer]:
    """A running server of the files in a folder."""
    with serving(server := FileServer(folder, query)):
        yield server
