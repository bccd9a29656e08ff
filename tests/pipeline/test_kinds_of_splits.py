"""Every command that takes a split, on every kind of split: it works, or ends with one line.

Planted: `is_label` without -1, which fails `shard verify` and `shard index` of all that has no labels; labels
of a tar whose labels are all -1 recorded as labels, which fails `test_minus_one_is_no_label`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.calls import call
from tests.pipeline.making.test_index_tars import read_all
from tests.pipeline.making.test_pack import save_image
from tests.pipeline.tars.tar_bytes import END, write_tar
from tests.runs import config_for, keep_float32, quiet

from turbomim.pipeline.making.index_tars import index_tars
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.index import Members
from turbomim.pipeline.tars.manifest import load_manifest
from turbomim.train.pretrain.pretrain import pretrain

# as many as the linear probe needs, and more than the neighbours
IMAGES = 24


def images(folder: Path, count: int = IMAGES, classes: str = "") -> Path:
    """A folder of images, a folder a class where there are classes."""
    for number in range(count):
        name = f"{classes[number % len(classes)]}/{number}.jpg" if classes else f"{number}.jpg"
        save_image(folder / name, seed=number)
    return folder


def made(count: int = IMAGES, classes: str = "") -> Callable[[Path], object]:
    """What makes a split from a folder of images."""
    return lambda split: make_shards(
        images(split.parent / "src", count, classes), split, ShardSettings(shard_size=10)
    )


def listed(split: Path) -> None:
    images(split.parent / "src")
    (split.parent / "list.csv").write_text("path\n" + "".join(f"src/{n}.jpg\n" for n in range(IMAGES)))
    make_shards(split.parent / "list.csv", split, ShardSettings(shard_size=10))


def tars(folder: Path, labels: Sequence[bytes], others: Sequence[str] = ()) -> Path:
    """A tar of images with these labels, and other members; without labels where there are none."""
    folder.mkdir()
    files: list[tuple[str, bytes]] = []
    for number in range(max(IMAGES, len(labels))):
        save_image(folder.parent / "src" / "0.jpg", seed=number)
        files.append((f"k{number}.jpg", (folder.parent / "src" / "0.jpg").read_bytes()))
        files += [(f"k{number}.cls", label) for label in labels[number : number + 1]]
        files += [(f"k{number}.{other}", b"{}") for other in others]
    write_tar(folder / "some.tar", files)
    return folder


def indexed(labels: Sequence[bytes], *others: str) -> Callable[[Path], object]:
    """What makes a split from a tar of elsewhere."""
    return lambda split: index_tars(tars(split, labels, others))


def one_image(split: Path) -> None:
    split.mkdir()
    save_image(split.parent / "0.jpg", seed=0)
    write_tar(split / "some.tar", [("k.jpg", (split.parent / "0.jpg").read_bytes()), ("k.cls", b"0")])
    index_tars(split)


def nothing(split: Path) -> None:
    split.mkdir()


def empty_tar(split: Path) -> None:
    split.mkdir()
    (split / "some.tar").write_bytes(END)


COMMANDS = {
    "inspect": "shard inspect {split} --sheet {tmp}/sheet.png",
    "verify": "shard verify {split}",
    "verify --images": "shard verify {split} --images --workers 1",
    "cat": "shard cat {split} {image}",
    "index": "shard index {copy}",
    "embed": "embed {run} {split} --out {tmp}/f.npz --device cpu",
    "show": "show {run} --data {split} --out {tmp}/show.png --images 1",
    "tune loader": "tune loader --data {split} --seconds 0.01 --size 32 --micro-batch 4 --device cpu",
    "eval knn": "eval knn {run} --train {split} --test {split} --json {tmp}/knn.json --device cpu",
    "eval linear": "eval linear {run} --train {split} --test {split} --json {tmp}/l.json --device cpu",
}
EVAL = {"eval knn", "eval linear"}
ALL = {*COMMANDS}
LABELS = [b"%d" % (number % 2) for number in range(IMAGES)]
# what makes a split, and which commands work on it
KINDS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "labelled": (made(classes="ab"), ALL),
    "a flat folder": (made(), ALL - EVAL),
    "a list without labels": (listed, ALL - EVAL),
    "foreign, more members": (indexed(LABELS, "json", "txt"), ALL),
    "foreign without labels": (indexed([], "txt"), ALL - EVAL),
    "foreign, all labels -1": (indexed([b"-1"] * IMAGES), ALL - EVAL),
    "one sample": (made(1, "a"), ALL - EVAL),
    "one foreign sample": (one_image, ALL - EVAL),
    "an empty tar": (empty_tar, set()),
    "an empty folder": (nothing, set()),
}
# it takes seconds
TUNED = {"a flat folder", "one foreign sample", "an empty tar"}


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A split of each kind."""
    found = {}
    for kind, (make, _) in KINDS.items():
        found[kind] = tmp_path_factory.mktemp("kind") / "split"
        make(found[kind])
    return found


@pytest.fixture(scope="module")
def run(splits: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of a tiny model."""
    runs = tmp_path_factory.mktemp("runs")
    config = config_for(splits["labelled"], runs, optim={"epochs": 1, "warmup_epochs": 0})
    return pretrain(config, console=quiet()).folder


@pytest.mark.parametrize(
    ("kind", "command"), [(k, c) for k in KINDS for c in COMMANDS if c != "tune loader" or k in TUNED]
)
def test_commands(
    kind: str,
    command: str,
    splits: dict[str, Path],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    split, copy = splits[kind], tmp_path / "copy"
    monkeypatch.setenv("TURBOMIM_CACHE_DIR", str(tmp_path / "cache"))
    keep_float32()
    copy.mkdir()
    for tar in split.glob("*.tar"):
        shutil.copy(tar, copy)
    listing = min(split.glob("*.idx"), default=None)
    place = f"{listing.stem}.tar:{listing.read_text().split()[5].split('.')[0]}" if listing else "some.tar:k"
    words = COMMANDS[command].format(split=split, copy=copy, run=run, tmp=tmp_path, image=place)
    works = command in KINDS[kind][1]
    assert call(monkeypatch, *words.split()) == (0 if works else 1)
    out, err = capfdbinary.readouterr()
    if works:
        assert out and not err
    else:
        assert not out and err.startswith(b"turbomim: ") and err.count(b"\n") == 1, err


@pytest.mark.parametrize("kind", KINDS)
def test_pretrain(kind: str, splits: dict[str, Path], tmp_path: Path) -> None:
    batch = 1 if "one" in kind else IMAGES
    optim = {"epochs": 1, "warmup_epochs": 0, "global_batch": batch}
    config = config_for(splits[kind], tmp_path, optim=optim)
    if KINDS[kind][1]:
        assert pretrain(config, console=quiet()).step == 1
    else:
        with pytest.raises(UserError, match=r"no manifest\.json in"):
            pretrain(config, console=quiet())


def test_minus_one_is_no_label(tmp_path: Path) -> None:
    """All -1: no labels; some: those have none, as other programs mark them."""
    some = [b"-1\n" if number % 2 else b"3" for number in range(IMAGES)]
    for name, labels, wanted in (("all", [b"-1"] * IMAGES, None), ("some", some, "cls")):
        (tmp_path / name).mkdir()
        folder = tars(tmp_path / name / "split", labels)
        assert Members.of(index_tars(folder).manifest.made).label == wanted
        assert load_manifest(Folder(folder)).labelled == (wanted is not None)
        assert {label for label, _ in read_all(folder)} == ({-1} if wanted is None else {-1, 3})


@pytest.mark.parametrize("label", [b"-2", b"- 1", b"--1", b"-1.0", b"\xb2"])
def test_other_negative_labels_are_refused(label: bytes, tmp_path: Path) -> None:
    folder = tars(tmp_path / "split", [label] * IMAGES)
    with pytest.raises(UserError, match="not a decimal number of at most 18 digits, or -1 for none"):
        index_tars(folder)
