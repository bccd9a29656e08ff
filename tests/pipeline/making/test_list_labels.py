"""Which columns of a list are paths and labels, and what labels mean: numbers, names, or none.

Planted: names of columns compared by case, 1.0 taken for a name, which `test_labels_read_are_labels_meant`
fails; the end of a path with spaces taken for a label, which `test_text_without_quotes` fails; names that are
numbers sorted as text, which `test_labels` fails.
"""

import csv
import io
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.pipeline.making.test_pack import save_image

from turbomim.pipeline.making.list_rows import NAMES
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.photo_list import read_list
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.commands.shard.make import shard_make_command

LABELS: dict[str, tuple[list[str], list[str], list[int], str]] = {
    "numbers": (["10", "2", "0"], [str(n) for n in range(11)], [10, 2, 0], "numbers from 0 to 10"),
    "whole floats": (["10.0", "2", "2.0"], [str(n) for n in range(11)], [10, 2, 2], "numbers from 2 to 10"),
    "-1": (["1", "-1", "-1.0"], ["0", "1"], [1, -1, -1], "from 1 to 1, and -1, no label, for 2 images"),
    "all -1": (["-1", "-1", "-1"], [], [-1, -1, -1], "labels are all -1: no labels"),
    "leading zeros": (
        ["10", "02", "1"],
        ["1", "02", "10"],
        [2, 1, 0],
        "taken as names, in the numbers' order",
    ),
    "fractions": (["10.5", "2.5", "10.5"], ["2.5", "10.5"], [1, 0, 1], "no whole numbers from 0, as '2.5'"),
    "a mix": (
        ["cat", "10", "2"],
        ["10", "2", "cat"],
        [2, 0, 1],
        "a mix, 2 numbers as '2' and 1 name as 'cat'",
    ),
    "names": (["b", "a", "B"], ["B", "a", "b"], [2, 1, 0], ""),
}


@pytest.mark.parametrize(("written", "classes", "labels", "said"), LABELS.values(), ids=LABELS)
def test_labels(written: list[str], classes: list[str], labels: list[int], said: str, photos: Path) -> None:
    paths = ("x/a.jpg", "x/b.jpg", "y/c.jpg")
    (photos / "list.csv").write_text("".join(f"{p},{w}\n" for p, w in zip(paths, written, strict=True)))
    found = read_list(photos / "list.csv")
    assert (list(found.classes), [image.label for image in found.images]) == (classes, labels)
    assert found.notes[0] == "columns: no header; path, then label"
    assert (said in found.notes[1]) if said else len(found.notes) == 1


def test_numbers_of_which_some_are_missing(photos: Path) -> None:
    """As pandas writes them: the others stay the classes that they are."""
    (photos / "list.csv").write_text("path,label\nx/a.jpg,2.0\nx/b.jpg,nan\ny/c.jpg,10.0\n")
    found = read_list(photos / "list.csv")
    assert [(image.path, image.label) for image in found.images] == [("x/a.jpg", 2), ("y/c.jpg", 10)]
    assert [(bad.path, bad.reason) for bad in found.refused] == [("x/b.jpg", "line 3: no label (nan)")]


CHOICES = {
    "path=photo,label=breed": ({"x/a.jpg": "cat", "y/c.jpg": "dog"}, "columns: path 'photo', label 'breed'"),
    " label = label ,path=photo": ({"x/a.jpg": "5", "y/c.jpg": "6"}, "columns: path 'photo', label 'label'"),
    "path=photo,label=": ({"x/a.jpg": "", "y/c.jpg": ""}, "columns: path 'photo', no labels"),
    "path=photo": ({"x/a.jpg": "5", "y/c.jpg": "6"}, "columns: path 'photo', label 'label'"),
}


@pytest.mark.parametrize(("columns", "expected", "said"), [(c, *v) for c, v in CHOICES.items()])
def test_columns_are_chosen(columns: str, expected: dict[str, str], said: str, photos: Path) -> None:
    (photos / "l.csv").write_text("breed, label, photo\ncat, 5, x/a.jpg\ndog, 6, y/c.jpg\n")
    found = read_list(photos / "l.csv", columns=columns)
    labels = {i.path: found.classes[i.label] if i.label >= 0 else "" for i in found.images}
    assert labels == expected and found.notes[0].startswith(f"{said}; not read: '")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("photo", "--columns is 'photo': give path=NAME,label=NAME"),
        ("path=a,path=b", "--columns is"),
        ("path=", "--columns path=: give the name"),
        ("path=a,label=b", "line 1: no column is called 'a', but 'path, label'"),
        ("path=label", "line 1: no column of 'path, label' is known to be the path"),
    ],
)
def test_columns_that_cannot_be(columns: str, words: str, photos: Path) -> None:
    (photos / "l.csv").write_text("path,label\nx/a.jpg,5\n")
    with pytest.raises(UserError, match=words):
        read_list(photos / "l.csv", columns=columns)


def test_columns_belong_to_a_list(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"--columns belongs to a \.csv, \.tsv or \.txt list"):
        make_shards(photos, photos.parent / "out", ShardSettings(columns="path=a"))


def test_what_was_taken_for_the_header_is_said(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "l.csv").write_text("id, Image, target\n9, x/a.jpg, 1\n8, y/c.jpg, 0\n")
    for _ in range(2):
        shard_make_command([str(photos / "l.csv"), str(photos.parent / "out"), "--workers", "1"])
        first, second, third = capsys.readouterr().out.splitlines()
        assert "2 images of 2 classes in 1 shard" in first
        assert second.startswith("columns: path 'Image', label 'target'; not read: 'id' (--columns path=NAME")
        assert third == "labels are numbers from 0 to 1"


WORDS = st.text("abz09_. é,;\"'", min_size=1, max_size=8).map(str.strip).filter(bool)


PATHS = st.lists(WORDS.map(lambda stem: f"p/{stem}.jpg"), min_size=1, max_size=6, unique=True)


NAMES_OF_CLASSES = WORDS.filter(lambda word: any(letter in "abzé" for letter in word))


def _quoted(cell: str, delimiter: str, quoting: Literal[0, 1]) -> str:
    """A cell as the csv module writes it."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="").writerow([cell])
    return text.getvalue()


@given(data=st.data(), paths=PATHS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_labels_read_are_labels_meant(data: st.DataObject, paths: list[str], tmp_path: Path) -> None:
    """However a list is written: columns in any order, with others, any case, spaces, quotes, marks."""
    numbers = data.draw(st.booleans())
    meant = st.integers(-1, 30).map(str) if numbers else NAMES_OF_CLASSES
    labels = data.draw(st.lists(meant, min_size=len(paths), max_size=len(paths)))
    as_float = numbers and data.draw(st.booleans())
    rows = [[path, f"{label}.0" if as_float else label] for path, label in zip(paths, labels, strict=True)]
    suffix, delimiter = data.draw(
        st.sampled_from([(".csv", ","), (".tsv", "\t"), (".txt", " "), (".CSV", ",")])
    )
    if data.draw(st.booleans()):
        header = [data.draw(st.sampled_from(NAMES[role])) for role in ("path", "label")]
        header = [data.draw(st.sampled_from([name, name.upper(), name.title()])) for name in header]
        rows = [header, *rows]
        if suffix != ".txt":
            rows = [[*row, str(at)] for at, row in enumerate(rows)]
            order = data.draw(st.permutations(range(3)))
            rows = [[row[at] for at in order] for row in rows]
    quoting: Literal[0, 1] = (
        csv.QUOTE_ALL if data.draw(st.booleans()) or suffix == ".txt" else csv.QUOTE_MINIMAL
    )
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    # a space behind the delimiter, never within a cell
    between = delimiter + " " * (quoting == csv.QUOTE_ALL and data.draw(st.booleans()))
    written = "".join(between.join(_quoted(cell, delimiter, quoting) for cell in row) + end for row in rows)
    source = tmp_path / f"list{suffix}"
    mark = data.draw(st.sampled_from(["", "\ufeff"]))
    source.write_bytes((mark + written).encode())
    found = read_list(source)
    assert found.refused == ()
    read = {i.path: found.classes[i.label] if i.label >= 0 else "-1" for i in found.images}
    assert read == dict(zip(paths, labels, strict=True))


@given(data=st.data(), paths=PATHS.filter(lambda paths: not any('"' in path for path in paths)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_without_quotes(data: st.DataObject, paths: list[str], tmp_path: Path) -> None:
    """Paths with spaces and labels of one word behind them, or no labels at all."""
    labels = data.draw(st.lists(st.integers(0, 999), min_size=len(paths), max_size=len(paths)))
    labelled = data.draw(st.booleans())
    space = data.draw(st.sampled_from([" ", "   ", "\t"]))
    rows = [f"{p}{space}{n}" if labelled else p for p, n in zip(paths, labels, strict=True)]
    (tmp_path / "list.txt").write_text("\n".join(rows))
    found = read_list(tmp_path / "list.txt")
    assert {i.path: i.label for i in found.images} == {
        path: label if labelled else -1 for path, label in zip(paths, labels, strict=True)
    }


def test_a_missing_label_among_names_is_said(tmp_path: Path) -> None:
    """Nobody knows whether it is one; nobody's class comes without a word."""
    for name in ("a", "b", "c"):
        save_image(tmp_path / f"{name}.jpg")
    (tmp_path / "list.csv").write_text("a.jpg,cat\nb.jpg,nan\nc.jpg,dog\n")
    found = read_list(tmp_path / "list.csv")
    assert found.classes == ("cat", "dog", "nan")
    assert "the label 'nan' of 1 image is taken as a name: leave it empty where there is none" in found.notes
    (tmp_path / "list.csv").write_text("a.jpg,0\nb.jpg,0.5\nc.jpg,1\n")
    assert any("no whole numbers from 0, as '0.5'" in line for line in read_list(tmp_path / "list.csv").notes)
