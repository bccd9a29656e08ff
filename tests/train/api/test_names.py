"""`import turbomim`: quick, and every public name is there and documented."""

import inspect
import subprocess
import sys
import time

import pytest

import turbomim
from turbomim.pipeline.system.errors import UserError

# of a fresh process; what takes long to import comes with the first name that needs it
LOOK = """
import sys, time
begun = time.perf_counter()
import turbomim
print(time.perf_counter() - begun, *(set("torch numpy rich tyro yaml timm".split()) & set(sys.modules)))
"""


def test_the_import_is_quick_and_brings_nothing() -> None:
    seconds, *brought = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not brought
    assert float(seconds) < 0.2


def test_every_public_name_is_there_and_documented() -> None:
    begun = time.perf_counter()
    for name in turbomim.__all__:
        found = getattr(turbomim, name)
        if name == "__version__":
            continue
        doc = inspect.getdoc(found)
        assert doc and len(doc) > 40, f"{name} is not documented"
        if inspect.isfunction(found):
            hints = inspect.get_annotations(found)
            assert {*inspect.signature(found).parameters, "return"} <= hints.keys(), f"{name} lacks types"
    assert time.perf_counter() - begun < 60


def test_the_table_and_the_list_of_names_agree() -> None:
    assert {*turbomim._MODULES, "__version__"} == {*turbomim.__all__}
    assert {*turbomim.__all__} <= {*dir(turbomim)}
    assert turbomim.UserError is UserError


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'shards'"):
        _ = turbomim.shards  # type: ignore[attr-defined]
