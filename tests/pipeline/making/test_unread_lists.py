"""A list of labels beside the images of a folder is not read without a word, and the word is right."""

import os
from pathlib import Path
from threading import Timer

import pytest
from tests.pipeline.making.test_pack import save_image

from turbomim.pipeline.checking.inspect import format_summary, summarise
from turbomim.pipeline.making.pack import describe_make, make_shards
from turbomim.pipeline.making.plan import find_source
from turbomim.pipeline.making.unread_lists import LONGEST
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split

BESIDE = {
    "labels.csv": "file,label\na.jpg,cat\nb.jpg,dog\n",
    "train.txt": "a.jpg\n",
    "README.txt": "Photographs of 2024, as they came\nfrom the camera.\n",
    "classes.txt": "cat\ndog\n",
}


def flat(folder: Path, *names: str, **texts: str) -> Path:
    """A folder of images, and of texts by the stems of their .csv."""
    for number, name in enumerate(names):
        save_image(folder / name, seed=number)
    for stem, text in texts.items():
        (folder / f"{stem}.csv").write_text(text)
    return folder


def test_lists_beside_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted, and seen to fail: lists looked for by their endings alone, so that a README is one."""
    monkeypatch.chdir(tmp_path)
    flat(Path("photographs"), "a.jpg", "b.jpg")
    for name, text in BESIDE.items():
        Path("photographs", name).write_text(text)
    report = make_shards("photographs", "out")
    assert report.notes == (
        "'photographs/labels.csv' was not read: it names 2 of 2 images, with labels. To take its labels, "
        "give it in place of the folder",
        "'photographs/train.txt' was not read: it names 1 of 2 images, without labels. To take these images "
        "alone, give it in place of the folder",
    )
    assert all(note in describe_make(report, 1.0) for note in report.notes)
    # as is said
    made = make_shards("photographs/labels.csv", "labelled").manifest
    assert made.classes == ("cat", "dog") and made.samples == 2
    text = format_summary(summarise(open_split("out")))
    assert (
        "classes      no labels (beside the images: 1 .csv, 3 .txt; a list of labels is taken in place"
        in text
    )


GIVE = ", with labels; labels are the folders' names. To take its labels, give it in place of the folder"
END = "To take its labels, write the endings, and give it in place of the folder"
CHOOSE = "; which column is the label is not clear, so give --columns path=NAME,label=NAME too"


@pytest.mark.parametrize(
    ("names", "lists", "words"),
    [
        (["i/a.jpg", "j/b.jpg"], {"l": "i/a.jpg,x\nj/b.jpg,y\n"}, [f"it names 2 of 2 images{GIVE}"]),
        (["i/a.jpg", "i/b.jpg"], {"l": "a.jpg,x\nb.jpg,y\n"}, [f"2 of 2 images{GIVE} with --root 'src/i'"]),
        (
            ["a.jpg"],
            {"l": "id,breed\na,pug\n"},
            [f"without their endings, as 'a' for 'a.jpg'. {END}{CHOOSE}"],
        ),
        (["a.jpg"], {"l": "path,class\ngone/x.jpg,pug\n"}, ["it names is here, as 'gone/x.jpg'"]),
        (["a.jpg"], {"l": "file,where,taken\na.jpg,here,2020\n"}, [f"in place of the folder{CHOOSE}"]),
        (["a.jpg"], {"l": "camera,lens\nX100,23\n", "m": "", "n": "1,2,3\n4,5,6\n"}, []),
    ],
)
def test_what_a_list_that_was_not_read_is_for(
    names: list[str], lists: dict[str, str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = find_source(flat(Path("src"), *names, **lists)).notes
    assert len(notes) == len(words) and all(w in n for w, n in zip(words, notes, strict=True)), notes
    assert all(note.startswith("'src/l.csv' was not read: ") and "\n" not in note for note in notes)


def test_a_table_beside_a_flat_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As data sets are given away: train/, train.csv, and tables that have nothing to do with them."""
    monkeypatch.chdir(tmp_path)
    flat(Path("train"), "a.jpg", "b.jpg")
    Path("train.csv").write_text("image,target\na.jpg,3\nb.jpg,4\n")
    Path("test.csv").write_text("image,target\nx.jpg,3\n")
    Path("notes.csv").write_text("a,b\n1,2\n")
    (note,) = find_source("train").notes
    assert note == (
        "'train.csv' was not read: it names 2 of 2 images, with labels. To take its labels, give it in place "
        "of the folder with --root 'train'"
    )
    assert find_source("train.csv", Path("train")).classes == ("0", "1", "2", "3", "4")
    Path("train.csv").write_text("image,target\ntrain/a.jpg,3\n")
    (note,) = find_source("train").notes
    assert "1 of 2 images" in note and "--root" not in note
    (tmp_path / "classed").mkdir()
    Path("train").rename("classed/train")
    assert find_source("classed").notes == (), "labels are there"


def test_a_list_of_which_nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told at once, with the folder that its paths seem to start from."""
    monkeypatch.chdir(tmp_path)
    flat(Path("data/train"), "a.jpg", "b.jpg")
    Path("data/labels.csv").write_text("file,label\na.jpg,cat\nb.jpg,dog\n")
    said = "'data/labels.csv': of 2 images that it names none can be seen, the first is 'a.jpg' in "
    with pytest.raises(UserError, match=said) as found:
        find_source("data/labels.csv")
    assert str(found.value).endswith("or give that as --root 'data/train' (that one is there)")
    assert len(find_source("data/labels.csv", Path("data/train")).images) == 2
    Path("data/labels.csv").write_text("file,label\nx.jpg,cat\n")
    with pytest.raises(
        UserError, match=r"of 1 image that it names none can be seen, .* or give that as --root$"
    ):
        find_source("data/labels.csv")


def test_a_text_for_each_image_is_not_read_a_million_times(tmp_path: Path) -> None:
    flat(tmp_path / "src", "deep/a.jpg", **{f"t{n:02d}": "" for n in range(12)})
    (tmp_path / "src" / "deep" / "a.csv").touch()
    assert find_source(tmp_path / "src").lists == tuple(f"t{n:02d}.csv" for n in range(10))


def test_what_cannot_be_a_list_of_the_images_is_not_read(tmp_path: Path) -> None:
    """A named pipe, which would never end, and a table of something else, which may have gigabytes.

    Planted, and seen to fail (the pipe by its writer's time): all that has a table's ending read whole.
    """
    for folder in (tmp_path, tmp_path / "train"):
        flat(tmp_path / "train", "a.jpg")
        row = f"a.jpg,{'x' * 2**16}\n"
        (folder / "long.csv").write_text(f"file,label\n{row * (LONGEST // len(row) + 1)}")
        os.mkfifo(folder / "pipe.csv")
        # opened for both ways no open waits, and a read ends as soon as this is closed
        handle = os.open(folder / "pipe.csv", os.O_RDWR)
        os.write(handle, b"file,label\na.jpg,cat\n")
        Timer(1.0, os.close, [handle]).start()
    assert find_source(tmp_path / "train").notes == ()
