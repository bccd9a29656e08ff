"""Ctrl-C ends a command that a silent store holds, and no other one.

Planted, each seen to fail: nobody watches; a process that used no store is ended; a handler of another is
passed over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from turbomim.benchmarks.stores.weed import environment

# what a command does, with less patience than there is
PROGRAM = """
import sys, time, signal
from turbomim.train.commands import cli
from turbomim.train.terminal import interrupts
interrupts.GRACE = 0.5

def slow_to_end(argv):
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(1.5)
        print("cleaned", flush=True)
        raise

def own_handler(argv):
    from turbomim.pipeline.places.stores import check_process
    check_process()
    signal.signal(signal.SIGINT, lambda *_: None)
    slow_to_end_after(2.5)

def slow_to_end_after(seconds):
    print("ready", flush=True)
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        time.sleep(0.1)
    print("cleaned", flush=True)

if sys.argv[1] in globals():
    cli.call = globals()[sys.argv[1]]
cli.main()
"""


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@contextlib.contextmanager
def program(*words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
        # a shell lets what it starts in the background ignore Ctrl-C, and all that is started there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str, str, float]:
    """Exit code, output, errors, and the seconds after Ctrl-C."""
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error, time.monotonic() - begun


@pytest.mark.parametrize("words", [("shard", "verify", "s3://a/b"), ("shard", "inspect", "s3://a/b")])
def test_a_silent_store_holds_nobody(words: tuple[str, ...], silent: socket.socket) -> None:
    with program(*words, **environment(f"http://127.0.0.1:{silent.getsockname()[1]}")) as process:
        silent.settimeout(60)
        connection, _ = silent.accept()
        connection.recv(10)
        code, _, error, seconds = interrupted(process)
    assert (code, error) == (130, "turbomim: ended without waiting for the store\n")
    # a request ends after 20
    assert seconds < 18


def test_who_used_no_store_has_all_the_time() -> None:
    with program("slow_to_end") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        code, out, error, _ = interrupted(process)
    assert (code, out, error) == (130, "cleaned\n", "turbomim: interrupted\n")


def test_who_takes_the_signal_is_left_alone() -> None:
    with program("own_handler") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        code, out, error, _ = interrupted(process)
    assert (code, out, error) == (0, "cleaned\n", "")
