"""A real S3 server: SeaweedFS on free ports of 127.0.0.1, with one bucket and three pairs of keys.

Measured on 2 cores: it takes writes 2.2 s after its start, and 150 MB of memory; on the disk, its objects.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUCKET = "turbomim"
HOST = "127.0.0.1"
# ports of the parts; gRPC is GRPC above, and both lie below those that Linux gives to clients
PORTS, GRPC = range(10_000, 22_700), 10_000
PARTS = ("master", "volume", "filer", "s3")
# s until a start has failed; it takes 2.2 s on an idle machine
PATIENCE = 60.0

# one volume a bucket instead of 7; memory of the Go runtime
LEAN = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "GOMEMLIMIT": "150MiB", "GOGC": "50"}
# the server, and beside it a guard that removes its sockets and kills the group when the process that
# started it has gone, however it went
GUARDED = 'exec 3<&0; (cat <&3 >/dev/null; rm -f $SOCKETS; kill -9 0) & exec "$@" 3<&- </dev/null'


@dataclass(frozen=True)
class Keys:
    """What a client signs its requests with."""

    access: str
    secret: str


FULL = Keys("TESTFULLACCESS", "secret-of-full-4f1c9a")
READ_ONLY = Keys("TESTREADACCESS", "secret-of-read-only-77ab02")
# no identity of the server
BAD = Keys("TESTBADACCESS", "secret-of-nobody-e03d51")
_RIGHTS = {FULL: ["Read", "Write", "List", "Tagging"], READ_ONLY: ["Read", "List"]}


def _identities() -> str:
    """The server's file of who may do what."""
    identities = [
        {
            "name": keys.access,
            "credentials": [{"accessKey": keys.access, "secretKey": keys.secret}],
            "actions": may,
        }
        for keys, may in _RIGHTS.items()
    ]
    return json.dumps({"identities": identities})


def environment(endpoint: str, keys: Keys = FULL) -> dict[str, str]:
    """The variables by which a client finds a server and signs."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": keys.access,
        "AWS_SECRET_ACCESS_KEY": keys.secret,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
    }


def _is_free(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return tried.connect_ex((HOST, port)) != 0


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and GRPC above them too."""
    shuffled = random.SystemRandom().sample(PORTS, len(PORTS))
    free = (port for port in shuffled if _is_free(port) and _is_free(port + GRPC))
    return [next(free) for _ in range(count)]


def _ask(port: int, method: str, path: str) -> int:
    """The status of one plain request; 0 where nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


class Weed:
    """A server that can be killed and started again on the same folder and ports, by `weed_server` alone."""

    def __init__(self, folder: Path, *, lean: bool = True) -> None:
        # the server works in it, so its path must hold from there
        self.folder = folder.absolute()
        self._settings = LEAN if lean else {}
        *ports, self._metrics_port = _free_ports(len(PARTS) + 1)
        self._ports = dict(zip(PARTS, ports, strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where S3 answers."""
        return f"http://{HOST}:{self._ports['s3']}"

    @property
    def metrics(self) -> str:
        """Where it says what it counted, for Prometheus."""
        return f"http://{HOST}:{self._metrics_port}/metrics"

    @property
    def environment(self) -> dict[str, str]:
        """Of a client with all rights."""
        return environment(self.endpoint)

    @property
    def sockets(self) -> list[str]:
        """Files by which its parts talk to each other, which it leaves behind."""
        plain = {part: self._ports[part] for part in ("filer", "s3")}
        grpc = {f"{part}-grpc": port + GRPC for part, port in self._ports.items()}
        return [f"/tmp/seaweedfs-{part}-{port}.sock" for part, port in {**plain, **grpc}.items()]

    @property
    def pid(self) -> int:
        """The running server's process."""
        assert self._process is not None, "it is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until its bucket can be written; RuntimeError with its last words otherwise."""
        assert self._process is None, "it is running"
        self.folder.mkdir(parents=True, exist_ok=True)
        identities, log = self.folder / "identities.json", self.folder / "log"
        identities.write_text(_identities(), encoding="utf-8")
        command = [
            *("/bin/sh", "-c", GUARDED, "sh", str(Path(sys.executable).with_name("weed"))),
            *("-logtostderr=true", "server", f"-dir={self.folder}", f"-ip={HOST}", f"-ip.bind={HOST}"),
            *("-filer", "-s3", f"-s3.config={identities}", "-s3.autoCreateBucket=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
            # no election of a master: 5 s less; many small volumes, so that each bucket has one
            *("-master.peers=none", "-master.volumeSizeLimitMB=1024", "-volume.max=100"),
            *(f"-{part}.port={port}" for part, port in self._ports.items()),
            f"-metricsPort={self._metrics_port}",
        ]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=self.folder,
                env={**os.environ, **LEAN, "SOCKETS": " ".join(self.sockets)}, start_new_session=True,
            )  # fmt: skip
        limit = time.monotonic() + PATIENCE
        while not self._takes_writes():
            if self._process.poll() is not None or time.monotonic() > limit:
                self.kill()
                raise RuntimeError(f"weed did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def _takes_writes(self) -> bool:
        """Whether S3 answers, and an object of the bucket (made if need be) was written and deleted again."""
        filer, probe = self._ports["filer"], f"/buckets/{BUCKET}/probe"
        made = _ask(self._ports["s3"], "GET", "/") and _ask(filer, "POST", f"/buckets/{BUCKET}/")
        return bool(made) and _ask(filer, "PUT", probe) == 201 and _ask(filer, "DELETE", probe) == 204

    def kill(self) -> None:
        """Kill -9 of all that was started.  What was written stays."""
        if (process := self._process) is None:
            return
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        self._process = None
        for socket_ in self.sockets:
            Path(socket_).unlink(missing_ok=True)

    def start_again(self) -> None:
        """Start the killed server on its folder and ports."""
        self.start()


@contextlib.contextmanager
def weed_server(folder: Path, *, lean: bool = True) -> Iterator[Weed]:
    """A running server that keeps its data in the folder, killed at the end.  lean: small, and slower."""
    server = Weed(folder, lean=lean)
    try:
        server.start()
        yield server
    finally:
        server.kill()
