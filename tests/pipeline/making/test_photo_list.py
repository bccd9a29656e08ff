"""Lists of photographs: every row is an image, a line of bad.jsonl, or the reason of one clear error.

Planted, and seen to fail `test_lists`: cells that are not stripped.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pipeline.making.test_pack import bad_entries, contents, members

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.photo_list import read_list
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError


def listed(photos: Path, text: str, name: str = "list.csv") -> dict[str, str]:
    """Class name of each path of a list."""
    (photos / name).write_text(text)
    found = read_list(photos / name)
    assert found.refused == ()
    return {image.path: found.classes[image.label] if image.label >= 0 else "" for image in found.images}


NAMED = {"x/a.jpg": "cat", "y/c.jpg": "dog"}


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("x/a.jpg,cat\ny/c.jpg,dog\n", "l.csv", NAMED),
        ("path,label\r\nx/a.jpg,cat\r\n\r\ny/c.jpg,dog\r\n", "l.csv", NAMED),
        ("\ufefflabel,path,more\ncat,x/a.jpg,1\ndog,./y/../y/c.jpg,", "l.csv", NAMED),
        ("x/a.jpg\tcat\ny/c.jpg\tdog", "l.TSV", NAMED),
        ('"d, e.jpg","a ""class"", quoted"\n', "l.csv", {"d, e.jpg": 'a "class", quoted'}),
        ("x/a.jpg,2\ny/c.jpg,0", "l.csv", {"x/a.jpg": "2", "y/c.jpg": "0"}),
        ("x/a.jpg,02\ny/c.jpg,0", "l.csv", {"x/a.jpg": "02", "y/c.jpg": "0"}),
        ("path\nx/a.jpg\ny/c.jpg", "my.list.csv", {"x/a.jpg": "", "y/c.jpg": ""}),
        ("path, label\nx/a.jpg, cat\ny/c.jpg, dog\n", "l.csv", NAMED),
        ('"File Name", "Class"\nx/a.jpg ,"cat"\n"y/c.jpg",  "dog"\n', "l.csv", NAMED),
        (",ID,class_name,imagePath\n0,7,cat,x/a.jpg\n1,8,dog,y/c.jpg\n", "l.csv", NAMED),
        ("path;label\nx/a.jpg;cat\ny/c.jpg;dog\n", "l.csv", NAMED),
        ("cat,x/a.jpg\ndog,y/c.jpg\n", "l.csv", NAMED),
        ("x/a.jpg 65\n\ny/c.jpg   970 \n", "l.txt", {"x/a.jpg": "65", "y/c.jpg": "970"}),
        ("path label\nx/a.jpg cat\ny/c.jpg dog", "l.txt", NAMED),
        ("x/a.jpg\tcat\ny/c.jpg\tdog", "l.txt", NAMED),
        ("x/a.jpg,cat\ny/c.jpg,dog", "l.txt", NAMED),
        ('d, e.jpg 3\n"x/a.jpg" "4"\n', "l.txt", {"d, e.jpg": "3", "x/a.jpg": "4"}),
        ('d, e.jpg "a ""b"" c"\n', "l.txt", {"d, e.jpg": 'a "b" c'}),
        ("x/a.jpg cat\ry/c.jpg dog\r", "l.txt", NAMED),
        ("d, e.jpg\nx/a.jpg\n", "l.txt", {"d, e.jpg": "", "x/a.jpg": ""}),
    ],
    ids=[
        "no header", "header", "mark and columns", "tabs", "quotes", "numbers", "names", "no label",
        "spaces", "spaces and quotes", "other names", "semicolons", "label first", "ImageNet's",
        "header in text", "tabs in text", "commas in text", "spaces in text's paths", "quotes in text",
        "lines of an old Mac", "text of paths",
    ],
)  # fmt: skip
def test_lists(text: str, name: str, expected: dict[str, str], photos: Path) -> None:
    assert listed(photos, text, name) == expected


def test_numbers_are_the_labels(photos: Path) -> None:
    (photos / "list.csv").write_text("x/a.jpg,2\ny/c.jpg,0")
    report = make_shards(photos / "list.csv", photos.parent / "out")
    assert report.manifest.classes == ("0", "1", "2") and report.empty_classes == ["1"]
    assert members(photos.parent / "out")["x_a.cls"] == b"2"
    assert (report.manifest.name, report.manifest.made["source"]) == ("list", "list.csv")


def test_a_list_of_a_folder_gives_the_folder_s_shards(photo_folder: Path, tmp_path: Path) -> None:
    # absolute paths, in reverse order
    paths = sorted(photo_folder.rglob("*.*"), reverse=True)
    (tmp_path / "list.tsv").write_text("".join(f"{path}\t{path.parent.name}\n" for path in paths))
    make_shards(photo_folder, tmp_path / "1", ShardSettings(name="trees"))
    make_shards(tmp_path / "list.tsv", tmp_path / "2", ShardSettings(name="trees", root=photo_folder))
    one, other = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert {name for name in one if one[name] != other[name]} == {"manifest.json", "SHA256SUMS"}


def test_rows_that_are_refused_have_their_line(photos: Path) -> None:
    rows = ["path,label", "x/a.jpg,cat", "x/a.jpg,cat", "x/b.jpg", "x/b.jpg,", ",cat", "gone.jpg,cat"]
    rows += [
        "x/b.jpg,cat,more",
        "x\0.jpg,cat",
        '"two\nlines.jpg"',
        "x/../x/a.jpg,cat",
        "list.csv,dog",
        "x,dog",
    ]
    (photos / "list.csv").write_text("\n".join(rows))
    report = make_shards(photos / "list.csv", photos.parent / "out", workers=1)
    assert [(image.path, image.reason) for image in report.bad] == [
        ("", "line 6: no path"),
        ("gone.jpg", "unreadable: No such file or directory"),
        ("list.csv", "not a JPEG, PNG or WebP file"),
        ("two\nlines.jpg", "line 11: 1 columns, not 2"),
        ("x", "not a regular file"),
        ("x\0.jpg", "line 9: a path with a zero byte"),
        ("x/a.jpg", "line 12: listed before, in line 2"),
        ("x/a.jpg", "line 3: listed before, in line 2"),
        ("x/b.jpg", "line 4: 1 columns, not 2"),
        ("x/b.jpg", "line 5: no label"),
        ("x/b.jpg", "line 8: 3 columns, not 2"),
    ]
    assert report.manifest.samples == 1
    assert (report.manifest.made["images_found"], report.manifest.made["images_bad"]) == (12, 11)
    assert bad_entries(photos.parent / "out")["gone.jpg"] == "unreadable: No such file or directory"
    with pytest.raises(UserError, match=r"^'x/b.jpg': line 4: 1 columns, not 2.*--on-bad quarantine"):
        make_shards(photos / "list.csv", photos.parent / "strict", ShardSettings(on_bad="fail"))
    assert not (photos.parent / "strict").exists()


def write(text: str | bytes, name: str = "list.csv") -> Callable[[Path], Path]:
    def make(photos: Path) -> Path:
        (photos / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return photos / name

    return make


USER_ERRORS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no list": (
        lambda photos: photos / "gone.csv",
        "cannot read .*gone.csv': No such file or directory; check",
    ),
    "climbs": (
        write("x/a.jpg,a\nx/../../b\x1b.jpg,a"),
        r"line 2: 'x/../../b\\x1b.jpg' leads out of .* --root",
    ),
    "absolute": (write("/etc/hosts,a"), "line 1: '/etc/hosts' leads out of .*holds all images as --root"),
    "a URL": (
        write("s3://b/a.jpg,a"),
        "line 1: 's3://b/a.jpg' is a URL, .* files of this machine: copy them",
    ),
    "root's neighbour": (write("../photos2/a.jpg,a"), "line 1: '../photos2/a.jpg' leads out of"),
    "a header of other words": (
        write("photo,what\na.jpg,b"),
        "line 1: 'photo, what' looks like a header, and no column is known .*--columns path=NAME,label=NAME",
    ),
    "a header with a known label": (
        write("\npicture,label\nx/a.jpg,10\n"),
        "line 2: 'picture, label' looks like a header, and",
    ),
    "a header without a known label": (
        write("path, breed\nx/a.jpg, 10\n"),
        "line 1: no column of 'path, breed' is known to be the label: give --columns .* or --columns label=",
    ),
    "two columns of a name": (
        write("path,label,label\nx/a.jpg,1,2"),
        "two columns are called 'label': rename",
    ),
    "two labels": (
        write("path,label\nx/a.jpg,cat\nx/b.jpg,cat\nx/../x/a.jpg,dog\n"),
        "line 4: 'x/a.jpg' has the label 'dog', and in line 2 'cat': remove one",
    ),
    "one number, two ways": (
        write("x/a.jpg,02\nx/b.jpg,2"),
        "line 2: label '2' and, in line 1, '02' are one number written in two ways",
    ),
    "some labels": (
        write("x/a.jpg 1\nx/b.jpg\n", "l.txt"),
        "line 1 has a label and line 2 has none; give each row a label behind its path",
    ),
    "endless name": (write("a" * 200_000, "l.txt"), "line 1: 'a{200}' looks like a header"),
    "endless cell": (write("a" * 200_000 + ",b\n"), "line 1: field larger than field limit"),
    "two labels in text": (
        write("x/a.jpg 1\nx/b.jpg golden retriever\n", "l.txt"),
        "line 2: more than one word behind 'x/b.jpg'; quote what holds spaces",
    ),
    "a space behind a quote": (
        write('"x/a.jpg" ,a\n'),
        "line 1: ',' expected after '\"'; .*, and leave no space behind a quote",
    ),
    "open quote in text": (write('"x/a.jpg 1\n', "l.txt"), "line 1: a quote is not closed"),
    "the root itself": (write(".,a"), "line 1: '.' leads out of"),
    "no header": (write("x/a.jpg,a,b"), "line 1: 3 columns and no header; write path,label above them"),
    "latin-1": (write(b"x/a.jpg,cat\nx/b.jpg,caf\xe9\n"), "line 2: not UTF-8 text; save it as UTF-8"),
    "utf-16": (write("x/a.jpg,cat\n".encode("utf-16")), "line 1: not UTF-8 text"),
    "open quote": (write('x/a.jpg,a\n"x/b.jpg,a\n'), "line 2: unexpected end of data; quote cells"),
    "large label": (write("x/a.jpg,1000000"), "line 1: label 1000000 is over 999,999"),
    "larger label": (write("x/a.jpg," + "9" * 5000), "line 1: label 99999999999999999999 is over"),
    "empty": (write(""), "list.csv' names no images: give rows of path,label"),
    "header only": (write("path,label\n"), "names no images"),
    "only refused": (write("path,label\nx/a.jpg,\n"), "names no images: .*; line 2: no label"),
}


@pytest.mark.parametrize(("make", "words"), USER_ERRORS.values(), ids=USER_ERRORS)
def test_user_errors(make: Callable[[Path], Path], words: str, photos: Path) -> None:
    with pytest.raises(UserError, match=words) as raised:
        make_shards(make(photos), photos.parent / "out")
    assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)
    assert not (photos.parent / "out").exists()


def test_a_root_that_is_no_folder(photos: Path) -> None:
    with pytest.raises(UserError, match=r"--root '.*gone' is no folder"):
        make_shards(write("x/a.jpg")(photos), photos.parent / "out", ShardSettings(root=photos / "gone"))


def test_shards_may_go_beside_the_list(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("x/a.jpg")(photos)
    monkeypatch.chdir(photos)
    assert make_shards("list.csv", "out").manifest.samples == 1
