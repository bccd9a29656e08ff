"""`turbomim.shard`: the shards of the command, from a script without a guard for processes."""

import subprocess
import sys
from pathlib import Path

import pytest

import turbomim
from turbomim.pipeline.tars.split import Split

SCRIPT = """
import turbomim
made = turbomim.shard({source!r}, "made", shard_size=9)
print(made.manifest.samples, made.manifest.fingerprint, len(made.bad))
"""


def test_a_plain_script_makes_the_same_shards(photo_folder: Path, tiny_split: Split, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(source=str(photo_folder)), encoding="utf-8")
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["33", tiny_split.manifest.fingerprint, "0"]
    for shard in tiny_split.manifest.shards:
        assert (tmp_path / "made" / shard.name).read_bytes() == (tiny_split.folder / shard.name).read_bytes()


@pytest.mark.usefixtures("here")
def test_what_it_returns_is_read_by_people(photo_folder: Path) -> None:
    said = repr(turbomim.shard(photo_folder, "made"))
    assert said.startswith("33 images of 3 classes in 1 shard, ") and said.splitlines()[0].endswith("made")
    assert repr(turbomim.shard(photo_folder, "made")).startswith("already whole, nothing to do: 33 images")


@pytest.mark.usefixtures("here")
def test_an_unknown_setting_is_named(photo_folder: Path) -> None:
    with pytest.raises(turbomim.UserError, match="'shard_sise': did you mean shard_size"):
        turbomim.shard(photo_folder, "made", shard_sise=9)


@pytest.mark.usefixtures("here")
def test_no_workers_are_refused(photo_folder: Path) -> None:
    with pytest.raises(turbomim.UserError, match="workers is 0"):
        turbomim.shard(photo_folder, "made", workers=0)


def test_a_setting_of_another_type_is_named(photo_folder: Path) -> None:
    """Planted, and seen to fail: settings that the dataclass takes whatever they are."""
    with pytest.raises(turbomim.UserError, match="shard_size = many: must be a whole number"):
        turbomim.shard(photo_folder, "out", shard_size="many")
