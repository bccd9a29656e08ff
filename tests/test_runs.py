"""The processes of tests are forked from one that has imported everything.

Planted bug: a server that cannot import `tests.runs`, and passes over it without a word.
"""

from tests.runs import finish, launch

# a function that a process finds without an import; it leaves by an exit code of its own
LOOK = """
import os, sys
os._exit(7 if {"tests.runs", "torch", "turbomim.train.pretrain.pretrain"} <= sys.modules.keys() else 8)
"""


def test_a_launch_imports_nothing_again() -> None:
    assert finish(launch(exec, LOOK)) == 7
