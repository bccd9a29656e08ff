"""A proxy before a server that injects faults by a plan, and counts what was asked and sent.

It hands requests on as they came, the Host header too, which S3's signatures cover.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from turbomim.benchmarks.stores.faults import BEFORE, OF_BODY, Fault, Plan, Request, none
from turbomim.benchmarks.stores.weed import HOST, environment

# about the connection, not the message
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding"})
ERRORS = {
    Fault.ERROR: (500, "InternalError", "We encountered an internal error. Please try again."),
    Fault.SLOW_DOWN: (503, "SlowDown", "Please reduce your request rate."),
    Fault.EXPIRED: (403, "ExpiredToken", "The provided token has expired."),
}
# after these the connection is of no more use
ENDING = OF_BODY - {Fault.SHORT, Fault.LONG}
# no version that a server gives
OTHER_ETAG = '"0123456789abcdef0123456789abcdef"'


@dataclass(frozen=True)
class Exchange:
    """A request, and what the client got."""

    request: Request
    # 0 for none
    status: int
    # bytes of the body that were sent
    sent: int
    # as the plan wanted and the request allowed
    fault: Fault | None = None


@dataclass(frozen=True)
class Answer:
    """What the server answers, or what the client gets: the body's length is in the headers."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def having(self, name: str, value: str) -> Answer:
        """With another value of a header."""
        others = [(key, old) for key, old in self.headers if key.lower() != name.lower()]
        return Answer(self.status, [*others, (name, value)], self.body)

    def reading(self, body: bytes) -> Answer:
        """With another body; the length in the headers stays."""
        return Answer(self.status, self.headers, body)


def failing(fault: Fault) -> Answer:
    """S3's words for a fault."""
    status, code, message = ERRORS[fault]
    text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
    return Answer(status, headers, text.encode())


def befalls(fault: Fault | None, request: Request, answer: Answer) -> bool:
    """Whether a fault can befall an answer of the server."""
    if fault in OF_BODY:
        return request.method == "GET" and answer.status in (200, 206) and len(answer.body) >= 2
    if fault is Fault.ETAG:
        return any(name.lower() == "etag" for name, _ in answer.headers)
    return answer.status > 0


def spoilt(fault: Fault, answer: Answer) -> Answer:
    """What the client gets of an answer."""
    body = answer.body
    half = body[: len(body) // 2]
    match fault:
        case Fault.ETAG:
            return answer.having("ETag", OTHER_ETAG)
        case Fault.LOST:
            return Answer(0, [], b"")
        case Fault.SHORT:
            return answer.reading(half).having("Content-Length", str(len(half)))
        case Fault.LONG:
            return answer.reading(body + b"\0").having("Content-Length", str(len(body) + 1))
        case Fault.WRONG_LENGTH:
            # else the client may ask again on this connection before it sees the byte too many
            return answer.having("Content-Length", str(len(body) - 1)).having("Connection", "close")
        case _:
            return answer.reading(half)


class FaultProxy(ThreadingHTTPServer):
    """The proxy; `plan` may be changed at any time.  Made by `fault_proxy` alone."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, target: str, plan: Plan, stall_s: float) -> None:
        self.target, self.plan, self.stall_s = urlsplit(target).netloc, plan, stall_s
        # in the order in which they were answered
        self.exchanges: list[Exchange] = []
        self.stopping = threading.Event()
        self._numbers, self._attempts = itertools.count(), Counter[tuple[str, ...]]()
        self._lock = threading.Lock()
        self._clients: set[Any] = set()
        super().__init__((HOST, 0), Handler)

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a client with all rights that asks the server through this proxy."""
        return environment(self.endpoint)

    @property
    def injected(self) -> Counter[Fault]:
        """Faults that befell a request, by kind."""
        return Counter(exchange.fault for exchange in [*self.exchanges] if exchange.fault)

    @property
    def sent(self) -> Counter[str]:
        """Bytes that GET requests got, by path."""
        sent: Counter[str] = Counter()
        for exchange in [*self.exchanges]:
            if exchange.request.method == "GET":
                sent[exchange.request.path] += exchange.sent
        return sent

    def numbered(self, method: str, target: str, range_: str, length: int) -> Request:
        """A request with its number, and that of its attempt."""
        path, _, query = target.partition("?")
        with self._lock:
            same = (method, target, range_)
            self._attempts[same] += 1
            return Request(next(self._numbers), self._attempts[same] - 1, method, path, query, range_, length)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client in a thread of its own."""
        self._clients.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, by a reset where it was told not to linger."""
        self._clients.discard(request)
        self.close_request(request)

    def stop(self) -> None:
        """End what stalls, and every connection."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for client in [*self._clients]:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """A connection of a client, and one to the server for it."""

    server: FaultProxy
    protocol_version = "HTTP/1.1"
    # else each answer waits 40 ms for the client's acknowledgement of its head
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        """Connect to the server at the first request."""
        super().setup()
        self.upstream = http.client.HTTPConnection(self.server.target)

    def finish(self) -> None:
        """Close both connections."""
        self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        """Serve requests until either side ends the connection."""
        with contextlib.suppress(OSError):
            super().handle()

    def pass_on(self) -> None:
        """Serve a request."""
        content = self._content()
        request = self.server.numbered(self.command, self.path, self.headers.get("Range", ""), len(content))
        fault = self.server.plan(request)
        if fault in BEFORE:
            answer = failing(fault) if fault in ERRORS else Answer(0, [], b"")
        else:
            answer = self._asked(content)
            fault = fault if fault and befalls(fault, request, answer) else None
            answer = spoilt(fault, answer) if fault else answer
        self.server.exchanges.append(Exchange(request, answer.status, len(answer.body), fault))
        self._send(answer, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    def _content(self) -> bytes:
        """The request's body."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _asked(self, content: bytes) -> Answer:
        """What the server answers; status 0 if it does not."""
        try:
            self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {*HOP_BY_HOP, "expect", "content-length"}:
                    self.upstream.putheader(name, value)
            if content or "Content-Length" in self.headers:
                self.upstream.putheader("Content-Length", str(len(content)))
            self.upstream.endheaders(content)
            response = self.upstream.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            self.upstream.close()
            return Answer(0, [], b"")
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        answer = Answer(response.status, headers, body)
        if self.command == "HEAD" or response.status in (204, 304):
            return answer
        return answer.having("Content-Length", str(len(body)))

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        """Send an answer as its fault has it."""
        if answer.status:
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)
            self.wfile.flush()
        if fault in (Fault.STALL, Fault.STALL_BODY):
            self.server.stopping.wait(self.server.stall_s)
        if not answer.status or fault in (Fault.RESET_BODY, Fault.STALL_BODY):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if not answer.status or fault in ENDING:
            self.close_connection = True

    def handle_expect_100(self) -> bool:
        """Let the client send its body."""
        nodded = super().handle_expect_100()
        self.wfile.flush()
        return nodded

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@contextlib.contextmanager
def fault_proxy(target: str, plan: Plan = none, stall_s: float = 60.0) -> Iterator[FaultProxy]:
    """A proxy before the server at a URL.  Without a plan it only counts.

    stall_s: seconds that a stall lasts; then the connection is reset.
    """
    proxy = FaultProxy(target, plan, stall_s)
    serving = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    serving.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        serving.join()
