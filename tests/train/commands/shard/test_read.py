"""`turbomim shard index`, `verify`, `inspect` and `cat` as a user meets them: words and exit codes."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.pipeline.tars.tar_bytes import write_tar

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.commands.shard.cat import shard_cat_command
from turbomim.train.commands.shard.index import shard_index_command
from turbomim.train.commands.shard.inspect import shard_inspect_command
from turbomim.train.commands.shard.verify import shard_verify_command


def encoded() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((40, 40)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    for number in range(3):
        write_tar(
            tmp_path / f"{number}.tar", [(f"k{number}.jpg", encoded()), (f"k{number}.cls", b"%d" % number)]
        )
    return tmp_path


def test_index_then_inspect_then_verify(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard_index_command([str(foreign), "--name", "mine", "--workers", "2"])
    out = capsys.readouterr().out
    assert (
        "3 samples in 3 shards, " in out
        and "indexed as mine-train" in out
        and "images jpg, labels cls" in out
    )
    shard_inspect_command([str(foreign), "--sheet", str(foreign / "sheet.png")])
    assert "sheet        3 images in" in capsys.readouterr().out
    assert (foreign / "sheet.png").read_bytes().startswith(b"\x89PNG")
    shard_verify_command([str(foreign), "--workers", "1", "--images"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("whole: 3 shards, 3 samples, ") and ", 3 images decoded in " in line


@pytest.mark.parametrize("name", ["a.jpg", "sheet"])
def test_a_sheet_is_a_png_by_its_name(foreign: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shard_index_command([str(foreign)])
    capsys.readouterr()
    with pytest.raises(UsageError, match=rf"--sheet '.*{name}': must be a file whose name ends in .png"):
        shard_inspect_command([str(foreign), "--sheet", str(foreign / name)])
    assert capsys.readouterr().out == "" and not (foreign / name).exists()
    shard_inspect_command([str(foreign), "--sheet", str(foreign / "A.PNG")])
    assert (foreign / "A.PNG").exists()


def test_index_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "a.tar", [("a.bmp", encoded()), ("b.txt", b""), ("README", b"")])
    shard_index_command([str(tmp_path), "--allow-missing"])
    out = capsys.readouterr().out
    assert "1 sample in 1 shard" in out and "no labels" in out
    assert "left out: 1 sample without an image, named in bad.jsonl" in out
    assert (
        "part of no sample: 1 file" in out and "note: bmp: the loader decodes JPEG, PNG and WebP only" in out
    )


def test_index_takes_choices(foreign: Path) -> None:
    shard_index_command([str(foreign), "--image", "jpg", "jpeg", "--label", "none", "--split", "test"])
    manifest = json.loads((foreign / "manifest.json").read_text())
    assert manifest["made"]["indexed"] == {"image": ["jpg"], "label": None, "keys": "first-dot"}
    assert manifest["split"] == "test"


def test_verify_lists_the_first_problems_and_reports_all(
    tiny_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_split.folder, tmp_path / "split"))
    os.truncate(folder / "trees-train-000000.tar", 5000)
    for number in range(25):
        (folder / f"stray\n{number:02d}.tar").touch()
    with pytest.raises(SystemExit) as end:
        shard_verify_command([str(folder), "--report", str(tmp_path / "report.jsonl")])
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22 and lines[20] == "… and 7 more: --report FILE.jsonl writes all"
    assert lines[0].startswith(r"stray\n00.tar is not in manifest.json")
    assert lines[21].startswith("27 problems: 4 shards, 33 samples, ")
    report = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert len(report) == 27
    assert report[-1]["file"] == "trees-train-000000.tar" and "at byte" in report[-1]["reason"]


@pytest.mark.parametrize("command", [shard_verify_command, shard_inspect_command, shard_index_command])
def test_a_folder_that_is_none(command: type, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        command([str(tmp_path / "nowhere")])


def test_cat_writes_bytes_but_not_to_a_terminal(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    shard_index_command([str(foreign)])
    capfdbinary.readouterr()
    shard_cat_command([str(foreign), "1.tar:k1"])
    sys.stdout.flush()
    image = capfdbinary.readouterr().out
    assert image == (foreign / "1.tar").read_bytes()[512 : 512 + len(image)] and image.startswith(b"\xff\xd8")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(UsageError, match="send them to a file"):
        shard_cat_command([str(foreign), "1.tar:k1"])
