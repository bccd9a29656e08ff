"""Files that are whole or as they were."""

import errno
import json
from pathlib import Path

import pytest
from tests.pipeline.making.test_pack import contents

from turbomim.pipeline.system.durable import durable_file, write_durably, write_json
from turbomim.pipeline.system.errors import UserError


@pytest.mark.parametrize(
    ("name", "helps"), [("file/below", "check the permissions"), ("x" * 255, "choose a shorter name")]
)
def test_a_file_that_can_be_neither_made_nor_removed(name: str, helps: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"cannot write .*; {helps}"):
        write_durably(tmp_path / name, b"")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    causes = (OSError(errno.EIO, "Input/output error"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)
    for cause, seen in causes:
        with pytest.raises(seen), durable_file(path, needed=3) as out:
            out.write(b"new")
            out.flush()
            assert path.read_bytes() == b"old"
            raise cause
        assert contents(tmp_path) == {"file": b"old"}


def test_names_stand_in_json_as_they_were_written(tmp_path: Path) -> None:
    """Planted, and seen to fail: escapes for all that is not ASCII; none for what is no UTF-8."""
    names = ["Björk", "桜", "half of \udce4"]
    write_json(tmp_path / "a.json", names)
    assert (tmp_path / "a.json").read_bytes().decode() == '[\n "Björk",\n "桜",\n "half of \\udce4"\n]\n'
    assert json.loads((tmp_path / "a.json").read_bytes()) == names
