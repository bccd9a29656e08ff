"""`import turbomim` brings nothing, and every public name is there and documented."""

import inspect
import subprocess
import sys

import pytest

import turbomim
from turbomim.pipeline.system.errors import UserError

# of a fresh process; what takes long to import comes with the first name that needs it
LOOK = """
import sys
import turbomim
print(*(set("torch numpy rich tyro yaml timm".split()) & set(sys.modules)))
"""


def test_the_import_brings_nothing() -> None:
    assert subprocess.check_output([sys.executable, "-c", LOOK], text=True) == "\n"


def test_every_public_name_is_there_and_documented() -> None:
    for name in turbomim.__all__:
        found = getattr(turbomim, name)
        if name == "__version__":
            continue
        doc = inspect.getdoc(found)
        assert doc and len(doc) > 40, f"{name} is not documented"
        if inspect.isfunction(found):
            hints = inspect.get_annotations(found)
            assert {*inspect.signature(found).parameters, "return"} <= hints.keys(), f"{name} lacks types"


def test_the_table_and_the_list_of_names_agree() -> None:
    assert {*turbomim._MODULES, "__version__"} == {*turbomim.__all__}
    assert {*turbomim.__all__} <= {*dir(turbomim)}
    assert turbomim.UserError is UserError


@pytest.mark.parametrize(
    ("call", "options", "said"),
    [
        ("embed", {"batch_size": 3}, "unknown option 'batch_size': did you mean batch or size?"),
        ("embed", {"heads": 3}, "unknown option 'heads': did you mean model.heads?"),
        ("load", {"sourc": 3}, "unknown option 'sourc': did you mean source?"),
        ("pretrain", {"begin_from": "r"}, "unknown option 'begin_from': did you mean begins_from?"),
        ("pretrain", {"epochs": 3}, "unknown option 'epochs': did you mean optim.epochs?"),
    ],
)
def test_a_misspelt_option_is_told_with_the_functions_own(
    call: str, options: dict[str, object], said: str
) -> None:
    required = {"embed": ["r", "photos"], "load": ["r"], "pretrain": ["demo"]}[call]
    named = {"data": "d", "name": "n"} if call == "pretrain" else {}
    with pytest.raises(UserError) as caught:
        getattr(turbomim, call)(*required, **named, **options)
    assert str(caught.value) == said


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'shards'"):
        _ = turbomim.shards  # type: ignore[attr-defined]
