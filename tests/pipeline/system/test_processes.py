"""A process is told from all others, also from one that has its number later.

Planted: a start that nobody compares, a zombie that counts as alive, another machine's that counts as dead.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from turbomim.pipeline.system.processes import in_words, is_alive, this_process


def test_this_one_runs() -> None:
    me = this_process()
    assert is_alive(me) is True
    assert in_words(me) == f"process {os.getpid()} on {socket.gethostname()}"


def test_another_one_with_its_number_is_not_it() -> None:
    assert is_alive({**this_process(), "born": "1"}) is False


def test_one_that_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    of_child = {"host": socket.gethostname(), "process": child.pid}
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    # a zombie has its number still
    assert is_alive(of_child) is False
    child.wait()
    assert is_alive(of_child) is False


@pytest.mark.parametrize("process", ["x", None, 2**40])
def test_what_is_no_number(process: object) -> None:
    assert is_alive({"host": socket.gethostname(), "process": process}) is False


def test_of_another_machine_nobody_knows() -> None:
    me = this_process()
    assert is_alive({**me, "system": "other"}) is None and is_alive({**me, "system": ""}) is None
    assert is_alive({"host": "far", "process": os.getpid()}) is None
    assert is_alive({}) is None
    assert (in_words({}), in_words({"process": 7, "host": "a\nb"})) == (
        "another process",
        r"process 7 on a\nb",
    )
