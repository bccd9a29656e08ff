"""The proxy hands on what it should, spoils what it should, and counts both; and what obstore makes of it."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError
from obstore.store import S3Store
from tests.stores.clients import client
from tests.waiting import wait_until

from turbomim.benchmarks.stores.fault_proxy import OTHER_ETAG, FaultProxy, fault_proxy
from turbomim.benchmarks.stores.faults import Fault, Request, first, none, seeded
from turbomim.benchmarks.stores.weed import BUCKET, HOST, Weed

CONTENT = bytes(range(256)) * 400
# of the range that is asked for, [START, END) bytes
START, END = 1000, 3000
HALF = (END - START) // 2


@pytest.fixture
def place(s3: str) -> str:
    """The prefix of this test's own place in the bucket."""
    return s3.rpartition("/")[2]


@pytest.fixture
def proxy(store: Weed) -> Iterator[FaultProxy]:
    """A proxy before the store."""
    with fault_proxy(store.endpoint, stall_s=30) as proxy:
        yield proxy


@pytest.fixture
def bucket(proxy: FaultProxy, place: str) -> S3Store:
    """The test's own place through the proxy, with `a` in it."""
    bucket = client(proxy.endpoint, prefix=place, timeout="500ms")
    obstore.put(bucket, "a", CONTENT)
    return bucket


def test_hands_everything_on_and_counts_it(proxy: FaultProxy, bucket: S3Store, place: str) -> None:
    obstore.put(bucket, "parts", CONTENT * 60, use_multipart=True, chunk_size=5 << 20)
    assert bytes(obstore.get(bucket, "parts").bytes()) == CONTENT * 60
    assert bytes(obstore.get_range(bucket, "a", start=START, end=END)) == CONTENT[START:END]
    obstore.copy(bucket, "a", "b")
    assert sorted(found["path"] for found in obstore.list(bucket).collect()) == ["a", "b", "parts"]
    obstore.delete(bucket, "b")
    assert proxy.sent[f"/{BUCKET}/{place}/a"] == END - START
    assert proxy.sent[f"/{BUCKET}/{place}/parts"] == len(CONTENT) * 60
    ranges = [e.request.range for e in proxy.exchanges if e.request.path.endswith("/a")]
    assert ranges == ["", f"bytes={START}-{END - 1}"]
    assert not proxy.injected


# kind: what obstore raises and the word by which its text tells the kind
RAISED = {
    Fault.ERROR: (GenericError, "InternalError"),
    Fault.SLOW_DOWN: (GenericError, "SlowDown"),
    Fault.EXPIRED: (PermissionDeniedError, "ExpiredToken"),
    Fault.RESET: (GenericError, "ConnectionReset"),
    Fault.STALL: (GenericError, "TimedOut"),
    Fault.LOST: (GenericError, "ConnectionReset"),
    Fault.RESET_BODY: (GenericError, "ConnectionReset"),
    Fault.STALL_BODY: (GenericError, "TimedOut"),
    Fault.TRUNCATED: (GenericError, "UnexpectedEof"),
}
# bytes that obstore hands out, without a word, where END - START were asked for
SILENT = {Fault.SHORT: HALF, Fault.LONG: END - START + 1, Fault.WRONG_LENGTH: END - START - 1}


@pytest.mark.parametrize("fault", RAISED, ids=lambda fault: fault.name)
def test_what_obstore_raises(proxy: FaultProxy, bucket: S3Store, fault: Fault) -> None:
    proxy.plan = first(1, fault)
    error, words = RAISED[fault]
    with pytest.raises(error) as raised:
        obstore.get_range(bucket, "a", start=START, end=END)
    assert words in str(raised.value)
    assert proxy.injected == {fault: 1}
    assert bytes(obstore.get_range(bucket, "a", start=START, end=END)) == CONTENT[START:END]


@pytest.mark.parametrize("fault", SILENT, ids=lambda fault: fault.name)
def test_what_obstore_does_not_see(proxy: FaultProxy, bucket: S3Store, fault: Fault) -> None:
    proxy.plan = first(1, fault)
    assert len(obstore.get_range(bucket, "a", start=START, end=END)) == SILENT[fault]
    assert proxy.injected == {fault: 1}
    assert bytes(obstore.get_range(bucket, "a", start=START, end=END)) == CONTENT[START:END]


def test_a_changed_etag(proxy: FaultProxy, bucket: S3Store) -> None:
    proxy.plan = first(1, Fault.ETAG)
    assert obstore.get(bucket, "a").meta["e_tag"] == OTHER_ETAG
    assert obstore.get(bucket, "a").meta["e_tag"] != OTHER_ETAG


def test_a_write_whose_answer_is_lost_was_made(proxy: FaultProxy, bucket: S3Store) -> None:
    proxy.plan = first(1, Fault.LOST, method="PUT", below="new")
    with pytest.raises(GenericError):
        obstore.put(bucket, "new", b"1")
    assert bytes(obstore.get(bucket, "new").bytes()) == b"1"


def test_faults_of_a_body_spare_what_has_none(proxy: FaultProxy, bucket: S3Store) -> None:
    proxy.plan = lambda request: Fault.SHORT
    assert obstore.head(bucket, "a")["size"] == len(CONTENT)
    assert not proxy.injected


def test_a_stall_ends_with_the_proxy(store: Weed, place: str) -> None:
    errors: list[BaseException] = []

    def ask(endpoint: str) -> None:
        try:
            obstore.get(client(endpoint, prefix=place), "a")
        except GenericError as error:
            errors.append(error)

    # of other servers, whose clients may keep a connection
    before = set(threading.enumerate())
    with fault_proxy(store.endpoint, first(1, Fault.STALL)) as proxy:
        asking = threading.Thread(target=ask, args=(proxy.endpoint,))
        asking.start()
        while not proxy.exchanges:
            time.sleep(0.01)
    asking.join(60)
    assert len(errors) == 1
    wait_until(
        lambda: (
            not [thread for thread in {*threading.enumerate()} - before if "process_request" in thread.name]
        )
    )


def request(number: int, attempt: int = 0) -> Request:
    """A request for the whole of something."""
    return Request(number, attempt, "GET", "/bucket/a", "", "", 0)


def test_a_seeded_plan_is_a_pure_function_with_its_rates() -> None:
    rates = {Fault.ERROR: 0.1, Fault.RESET: 0.02, Fault.SHORT: 0.3}
    drawn = [seeded(7, rates)(request(number)) for number in range(10_000)]
    assert drawn == [seeded(7, rates)(request(number)) for number in range(10_000)]
    assert drawn != [seeded(8, rates)(request(number)) for number in range(10_000)]
    # 5 standard deviations of a share of 0.3 of 10,000
    assert {f: n / 10_000 for f, n in Counter(drawn).items() if f} == pytest.approx(rates, abs=0.023)


def test_first_attempts() -> None:
    plan = first(2, Fault.ERROR, below="a")
    assert [plan(request(5, attempt)) for attempt in range(3)] == [Fault.ERROR, Fault.ERROR, None]
    assert first(2, Fault.ERROR, below="z")(request(0)) is None
    assert first(2, Fault.ERROR, method="PUT")(request(0)) is None
    assert none(request(0)) is None


class Recorder(BaseHTTPRequestHandler):
    """Answers with the body's own bytes, and with nothing to a body in chunks."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


def test_uploads_in_chunks_and_after_a_nod() -> None:
    server = HTTPServer((HOST, 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with fault_proxy(f"http://{HOST}:{server.server_address[1]}") as proxy:
        connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=60)
        connection.request("PUT", "/a", iter([b"one ", b"two"]), encode_chunked=True)
        assert connection.getresponse().read() == b"one two"
        connection.putrequest("PUT", "/a")
        connection.putheader("Expect", "100-continue")
        connection.putheader("Content-Length", "5")
        connection.endheaders()
        # the nod is sent before the body is
        assert connection.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b"three")
        assert connection.getresponse().read() == b"three"
        connection.close()
    assert [exchange.request.bytes for exchange in proxy.exchanges] == [7, 5]
    server.shutdown()
    server.server_close()
