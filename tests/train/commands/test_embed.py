"""`turbomim embed`: every row belongs to its key, what cannot be decoded has none, and files are whole.

Planted, each seen to fail the test named: places or keys counted without those left out, features written at
their places instead of in a row, the list of an earlier file left there, small images taken
(`test_what_cannot_be_used_has_no_row_and_is_named`); a stand-in for what does not decode
(`test_damage_in_shards_is_named_by_its_key`); keys of shards sorted
(`test_shards_give_the_features_of_their_keys`); class token and mean exchanged
(`test_a_folder_gives_each_files_features`); positions of the new size instead of resampled ones
(`test_another_size_resamples_positions_as_timm_does`); the file written in place
(`test_an_interrupted_write_leaves_the_old_file`); a label for all images of a flat folder
(`test_a_flat_folder_has_no_labels_and_a_list_has_its_own`); keys not counted
(`test_more_keys_than_a_header_holds_are_refused_first`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from tests.calls import assert_one_line, call
from tests.runs import config_for, quiet
from timm.models.vision_transformer import VisionTransformer
from torchvision.transforms import functional as vision

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline import image_source
from turbomim.pipeline.making.index_tars import index_tars
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.encoder import row_files
from turbomim.train.encoder.features import load_run
from turbomim.train.export.timm import timm_arguments
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def run(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of a tiny model of 32 pixels."""
    config = config_for(tiny_split.folder, tmp_path_factory.mktemp("runs"), optim={"epochs": 1})
    return pretrain(config, console=quiet()).folder


@pytest.fixture
def embedded(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Arrays]:
    """The arrays of `turbomim embed RUN SOURCE … --out F.npz`."""

    def command(source: Path, *words: str) -> Arrays:
        out = tmp_path / "features" / "F.npz"
        assert call(monkeypatch, "embed", str(run), str(source), "--out", str(out), *words) == 0
        with np.load(out) as arrays:
            return dict(arrays)

    return command


def by_hand(run: Path, path: Path, size: int = 32) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Class token and mean patch token of one file, by PIL, torchvision and timm."""
    config, model, _ = load_run(run)
    theirs = cast(VisionTransformer, timm.create_model(**timm_arguments(config)).eval())
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(model.decoder_names)}
    theirs.load_state_dict(weights)
    if size != 32:
        theirs.set_input_size((size, size))
    with Image.open(path) as image:
        short = vision.resize(image.convert("RGB"), size, vision.InterpolationMode.BICUBIC)
    pixels = vision.normalize(
        vision.to_tensor(vision.center_crop(short, [size, size])), IMAGENET_MEAN, IMAGENET_STD
    )
    with torch.no_grad():
        tokens = theirs.forward_features(pixels[None])[0]
    return tokens[0].numpy(), tokens[1:].mean(0).numpy()


def like(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether features agree but for decoders and resizes that round by a grey level."""
    return bool(np.abs(found - expected).max() < 0.05 * np.abs(expected).max())


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_folder_gives_each_files_features(
    run: Path, photo_folder: Path, embedded: Callable[..., Arrays], pool: str
) -> None:
    """Batches that do not divide it, PNG and WebP too; in the order of the paths, with classes and labels."""
    found = embedded(photo_folder, "--pool", pool, "--batch", "7")
    paths = sorted(str(path.relative_to(photo_folder)) for path in photo_folder.rglob("*.*"))
    assert found["keys"].tolist() == paths and len(paths) == 33
    assert found["classes"].tolist() == ["ash", "birch", "cedar"]
    assert [found["classes"][label] for label in found["labels"]] == [path.split("/")[0] for path in paths]
    assert found["features"].shape == (33, 32) and found["features"].dtype == np.float32
    for key, row in zip(found["keys"], found["features"], strict=True):
        cls, mean = by_hand(run, photo_folder / key)
        assert like(row, mean if pool == "mean" else cls), key
    made = json.loads(str(found["made"]))
    assert (made["step"], made["size"]) == (5, 32)
    assert made["features"] == {"mean": "mean of patch tokens", "cls": "class token"}[pool]


@pytest.mark.parametrize("store", ["original", "foreign"])
def test_shards_give_the_features_of_their_keys(
    photo_folder: Path, tiny_split: Split, tmp_path: Path, embedded: Callable[..., Arrays], store: str
) -> None:
    source = tiny_split.folder
    if store == "foreign":
        (tmp_path / "tars").mkdir()
        for tar in tiny_split.folder.glob("*.tar"):
            shutil.copy(tar, tmp_path / "tars")
        source = tmp_path / "tars"
        index_tars(source)
    folder, shards = embedded(photo_folder), embedded(source, "--batch", "5")
    rows = dict(
        zip(
            (key.rsplit(".", 1)[0].replace("/", "_") for key in folder["keys"]),
            folder["features"],
            strict=True,
        )
    )
    assert sorted(rows) == sorted(shards["keys"].tolist())
    assert shards["keys"].tolist() != sorted(rows), "the order of the shards is another"
    for key, row, label in zip(shards["keys"], shards["features"], shards["labels"], strict=True):
        np.testing.assert_allclose(row, rows[key], rtol=1e-3, atol=1e-4)
        assert key.startswith(("ash", "birch", "cedar")[label])
    assert ("classes" in shards) == (store == "original")


def damaged(photo_folder: Path, folder: Path) -> list[str]:
    """A copy of the photographs with four that cannot be used; their paths, in order."""
    shutil.copytree(photo_folder, folder)
    names = ("tree_00.jpg", "tree_01.jpg", "tree_02.jpg", "tree_03.png")
    empty, text, small, cut = (folder / "ash" / name for name in names)
    # its header is whole, so only decoding tells
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    empty.write_bytes(b"")
    text.write_text("not an image")
    Image.fromarray(texture(1, 20, 90)).save(small)
    (folder / "notes.txt").write_text("more than images")
    return [str(path.relative_to(folder)) for path in (empty, text, small, cut)]


@pytest.mark.parametrize("batch", ["1", "3", "128"])
def test_what_cannot_be_used_has_no_row_and_is_named(
    photo_folder: Path, tmp_path: Path, embedded: Callable[..., Arrays], capsys: Any, batch: str
) -> None:
    bad = damaged(photo_folder, tmp_path / "photos")
    whole = embedded(photo_folder, "--batch", batch)
    assert not list((tmp_path / "features").glob("*left-out*"))
    capsys.readouterr()
    found = embedded(tmp_path / "photos", "--batch", batch)
    lines = (tmp_path / "features" / "F.npz.left-out.jsonl").read_text().splitlines()
    reasons = {line["key"]: line["reason"] for line in map(json.loads, lines)}
    assert sorted(reasons) == bad and "under 32" in reasons[bad[2]] and reasons[bad[0]] == "empty file"
    assert found["keys"].tolist() == [key for key in whole["keys"].tolist() if key not in bad]
    rows = dict(zip(whole["keys"].tolist(), whole["features"], strict=True))
    labels = dict(zip(whole["keys"].tolist(), whole["labels"], strict=True))
    for key, row, label in zip(found["keys"].tolist(), found["features"], found["labels"], strict=True):
        np.testing.assert_allclose(row, rows[key], rtol=1e-3, atol=1e-4, err_msg=key)
        assert label == labels[key]
    said = capsys.readouterr().out
    assert "left out: 4 images" in said and "1 .txt" in said
    # the next file without any leaves no list of an earlier one
    embedded(photo_folder)
    assert not list((tmp_path / "features").glob("*left-out*"))


def test_damage_in_shards_is_named_by_its_key(
    tiny_split: Split, tmp_path: Path, embedded: Callable[..., Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embedded(tiny_split.folder)
    shutil.copytree(tiny_split.folder, tmp_path / "shards")
    # as a disk that rots after the split was opened

    def rotten(path: Path) -> Split:
        split = open_split(path)
        for sample in (4, 5, 20):
            shard = split.shard_path(int(split.index.shard_N[sample]))
            content = bytearray(shard.read_bytes())
            place = int(split.index.image_offset_N[sample])
            content[place : place + 64] = bytes(64)
            shard.write_bytes(content)
        return split

    monkeypatch.setattr(image_source, "open_split", rotten)
    found = embedded(tmp_path / "shards", "--batch", "5")
    left = [place for place in range(33) if place not in (4, 5, 20)]
    assert found["keys"].tolist() == whole["keys"][left].tolist()
    np.testing.assert_allclose(found["features"], whole["features"][left], rtol=1e-3, atol=1e-4)
    lines = (tmp_path / "features" / "F.npz.left-out.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == whole["keys"][[4, 5, 20]].tolist()


def test_a_flat_folder_has_no_labels_and_a_list_has_its_own(
    photo_folder: Path,
    tmp_path: Path,
    embedded: Callable[..., Arrays],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flat = embedded(photo_folder / "ash")
    assert "labels" not in flat and "classes" not in flat and len(flat["keys"]) == 11
    make_shards(photo_folder / "ash", tmp_path / "shards")
    packed = embedded(tmp_path / "shards")
    assert "labels" not in packed and "classes" not in packed and len(packed["keys"]) == 11
    listed = tmp_path / "list.csv"
    shutil.copytree(photo_folder, tmp_path / "trees")
    rows = "path,kind\ntrees/birch/tree_12.jpg,0\ntrees/ash/tree_00.jpg,1\ntrees/gone.jpg,1\n"
    listed.write_text(rows)
    found = embedded(listed, "--columns", "label=kind")
    assert "columns: path 'path', label 'kind'\nlabels are numbers from 0 to 1\n" in capsys.readouterr().out
    labels = dict(zip(found["keys"].tolist(), found["labels"].tolist(), strict=True))
    assert labels == {"trees/birch/tree_12.jpg": 0, "trees/ash/tree_00.jpg": 1}
    assert "gone.jpg" in (tmp_path / "features" / "F.npz.left-out.jsonl").read_text()


def test_safetensors_hold_the_same(
    run: Path,
    photo_folder: Path,
    tmp_path: Path,
    embedded: Callable[..., Arrays],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    npz, out = embedded(photo_folder), tmp_path / "F.safetensors"
    assert call(monkeypatch, "embed", str(run), str(photo_folder), "--out", str(out)) == 0
    tensors = load_file(out)
    assert set(tensors) == {"features", "labels"}
    assert out.stat().st_mode == (tmp_path / "features" / "F.npz").stat().st_mode
    assert np.array_equal(tensors["features"].numpy(), npz["features"])
    assert np.array_equal(tensors["labels"].numpy(), npz["labels"])
    opened: Any = safe_open
    with opened(out, "np") as file:
        texts = {key: json.loads(value) for key, value in file.metadata().items()}
    assert texts["keys"] == npz["keys"].tolist() and texts["classes"] == npz["classes"].tolist()
    assert texts["made"] == json.loads(str(npz["made"]))


@pytest.mark.parametrize("size", [24, 48])
def test_another_size_resamples_positions_as_timm_does(
    run: Path, photo_folder: Path, embedded: Callable[..., Arrays], size: int
) -> None:
    found = embedded(photo_folder / "ash", "--size", str(size))
    assert json.loads(str(found["made"]))["size"] == size
    for key, row in list(zip(found["keys"], found["features"], strict=True))[:4]:
        assert like(row, by_hand(run, photo_folder / "ash" / key, size)[1]), key


@pytest.mark.parametrize("name", ["F.npz", "F.safetensors"])
def test_an_interrupted_write_leaves_the_old_file(
    run: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    out = tmp_path / name
    out.write_bytes(b"old")

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(row_files, "save_npz", cut)
    monkeypatch.setattr(row_files, "write_safetensors", cut)
    assert call(monkeypatch, "embed", str(run), str(photo_folder), "--out", str(out)) == 130
    assert out.read_bytes() == b"old" and [path.name for path in tmp_path.iterdir()] == [name]
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["RUN", "PHOTOS", "--out", "F.npy"], 2, "must be a file whose name ends in .npz or .safetensors"),
        (["RUN", "PHOTOS", "--out", "F.npz", "--batch", "0"], 2, "--batch 0: must be at least 1"),
        (
            ["RUN", "PHOTOS", "--out", "F.npz", "--size", "0"],
            2,
            "data.size = 0: must be at least 16",
        ),
        (
            ["RUN", "PHOTOS", "--out", "F.npz", "--size", "33"],
            2,
            "data.size = 33: must be a multiple of",
        ),
        (["/nowhere", "PHOTOS", "--out", "F.npz"], 1, "/nowhere is not a run"),
        (["RUN", "/nowhere", "--out", "F.npz"], 1, "'/nowhere' does not exist"),
        (["RUN", "EMPTY", "--out", "F.npz"], 1, "no images below"),
        (["RUN", "TARS", "--out", "F.npz"], 1, "turbomim shard index"),
        (
            ["RUN", "BAD", "--out", "F.npz"],
            1,
            "can be encoded: the first is 'a.jpg', empty file",
        ),
    ],
)
def test_what_cannot_be_embedded_is_one_line(
    run: Path,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    for name, file in (("empty", None), ("tars", "a.tar"), ("bad", "a.jpg")):
        (tmp_path / name).mkdir()
        if file:
            (tmp_path / name / file).write_bytes(b"")
    places = {
        "RUN": run, "PHOTOS": photo_folder, "EMPTY": tmp_path / "empty", "TARS": tmp_path / "tars",
        "BAD": tmp_path / "bad",
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "embed", *(str(places.get(word, word)) for word in words)) == code
    assert_one_line(capsys, message)
    assert not list(tmp_path.glob("F.*"))


def test_more_keys_than_a_header_holds_are_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "MOST_KEYS", 10)
    with pytest.raises(UsageError, match=r"give a name ending in \.npz"):
        row_files.check_header(["a long key", "another"], tmp_path / "F.safetensors")
    row_files.check_header(["a long key", "another"], tmp_path / "F.npz")
