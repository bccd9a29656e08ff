"""Shards: every reader of the field sees the same samples, and no damage to a file goes unnoticed."""

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from turbomim.pipeline.checking.inspect import format_summary, summarise
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.sha256 import file_sha256
from turbomim.pipeline.tars import manifest
from turbomim.pipeline.tars.manifest import Manifest, Shard, fingerprint_of, load_manifest
from turbomim.pipeline.tars.split import Split, open_split

Sample = tuple[str, int, bytes]


def read_by_index(split: Split) -> list[Sample]:
    """Read (key, label, image bytes) of every sample as the loader does: by offset, without a tar reader."""
    samples, index = [], split.index
    tars = [split.shard_path(shard).read_bytes() for shard in range(len(split.manifest.shards))]
    for sample in range(len(index)):
        tar = tars[index.shard_N[sample]]
        label = tar[index.offset_N[sample] :][: index.label_bytes_N[sample]]
        image = tar[index.image_offset_N[sample] :][: index.image_bytes_N[sample]]
        key = split.locate(sample).split(":")[1].partition(".")[0]
        samples.append((key, int(label), image))
    return samples


def read_by_tarfile(split: Split) -> list[Sample]:
    samples = []
    for shard in split.manifest.shards:
        with tarfile.open(split.folder / shard.name) as tar:
            contents = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        for (label_name, label), (image_name, image) in zip(contents[::2], contents[1::2], strict=True):
            key = image_name.partition(".")[0]
            assert label_name == f"{key}.cls"
            samples.append((key, int(label), image))
    return samples


def test_the_index_agrees_with_tarfile(tiny_split: Split) -> None:
    samples = read_by_index(tiny_split)
    assert samples == read_by_tarfile(tiny_split)
    assert len(samples) == tiny_split.manifest.samples == 33
    assert [shard.samples for shard in tiny_split.manifest.shards] == [9, 9, 9, 6]
    assert {image[:4] for _, _, image in samples} == {b"\xff\xd8\xff\xe0", b"\x89PNG", b"RIFF"}


def test_index_arrays_have_the_agreed_types(tiny_split: Split) -> None:
    index = tiny_split.index
    arrays = (index.shard_N, index.offset_N, index.label_bytes_N, index.image_offset_N, index.image_bytes_N)
    assert [array.dtype.name for array in arrays] == ["int32", "int64", "int16", "int64", "int32"]
    assert {array.shape for array in arrays} == {(33,)}


def test_webdataset_reads_the_same_samples(tiny_split: Split) -> None:
    import webdataset

    urls = [str(tiny_split.shard_path(shard)) for shard in range(4)]
    read = [
        (
            sample["__key__"],
            int(sample["cls"]),
            next(sample[kind] for kind in ("jpg", "png", "webp") if kind in sample),
        )
        for sample in webdataset.WebDataset(urls, shardshuffle=False)
    ]
    assert read == read_by_index(tiny_split)


def test_dali_reads_the_same_samples_with_our_index(tiny_split: Split) -> None:
    from nvidia import dali

    # DALI's own annotations do not cover these calls
    fn: Any = dali.fn
    make_pipeline: Any = dali.pipeline.Pipeline
    paths = [tiny_split.shard_path(shard) for shard in range(4)]
    pipeline = make_pipeline(batch_size=33, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        labels, images = fn.readers.webdataset(
            paths=[str(path) for path in paths],
            index_paths=[str(path.with_suffix(".idx")) for path in paths],
            ext=["cls", "jpg;png;webp"],
            missing_component_behavior="error",
        )
        pipeline.set_outputs(labels, images)
    pipeline.build()
    labels, images = pipeline.run()
    read = [(int(bytes(labels.at(i))), bytes(images.at(i))) for i in range(33)]
    assert read == [(label, image) for _, label, image in read_by_index(tiny_split)]


def test_wds2idx_writes_the_same_index(tiny_split: Split, tmp_path: Path) -> None:
    from wds2idx import IndexCreator  # type: ignore[import-untyped]

    for shard in range(4):
        tar = tiny_split.shard_path(shard)
        with IndexCreator(str(tar), str(tmp_path / "theirs.idx"), verbose=False) as creator:
            creator.create_index()
        assert (tmp_path / "theirs.idx").read_bytes() == tar.with_suffix(".idx").read_bytes()


def test_timm_reads_the_same_samples(tiny_split: Split) -> None:
    from timm.data.dataset_factory import create_dataset

    dataset = create_dataset("wds/trees", root=str(tiny_split.folder), split="train", is_training=False)
    assert len(dataset) == 33
    expected = read_by_index(tiny_split)
    read = list(dataset)
    assert [int(label) for _, label in read] == [label for _, label, _ in expected]
    for (image, _), (_, _, content) in zip(read, expected, strict=True):
        assert image.tobytes() == Image.open(io.BytesIO(content)).convert("RGB").tobytes()


def test_listings_agree_with_the_manifest(tiny_split: Split) -> None:
    names = [f"trees-train-{shard:06d}.tar" for shard in range(4)]
    assert [shard.name for shard in tiny_split.manifest.shards] == names
    sizes = json.loads((tiny_split.folder / "sizes.json").read_text())
    assert sizes == dict(zip(names, [9, 9, 9, 6], strict=True))
    assert json.loads((tiny_split.folder / "classes.json").read_text()) == ["ash", "birch", "cedar"]
    assert (tiny_split.folder / "bad.jsonl").read_bytes() == b""
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tiny_split.folder, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    everything = {path.name for path in tiny_split.folder.iterdir()}
    assert {line.split(":")[0] for line in checked.stdout.splitlines()} == everything - {"SHA256SUMS"}


def test_manifest_survives_json(tiny_split: Split) -> None:
    assert Manifest.from_json(tiny_split.manifest.to_json()) == tiny_split.manifest
    assert tiny_split.manifest.fingerprint == fingerprint_of(tiny_split.manifest.shards)


def make_newer(path: Path) -> None:
    later = (path.parent / "manifest.json").stat().st_mtime_ns + 1
    os.utime(path, ns=(later, later))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    make_newer(path)


def swap_with_next(path: Path) -> None:
    other = path.with_name("trees-train-000002.idx")
    path.write_bytes(other.read_bytes())


def drop_a_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["v1.2 8", *lines[1:-1], ""]))


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("trees-train-000001.tar", Path.unlink, "is missing"),
    "empty": ("trees-train-000001.tar", lambda path: os.truncate(path, 0), "is shorter .* 0 bytes, not"),
    "cut to half": (
        "trees-train-000001.tar",
        lambda path: os.truncate(path, 51200),
        "is shorter .* 51,200 bytes",
    ),
    "longer": ("trees-train-000001.tar", lambda path: path.open("ab").write(bytes(10240)), "is longer"),
    "a byte changed": ("trees-train-000001.tar", flip_a_byte, "was changed after"),
    "index missing": ("trees-train-000001.idx", Path.unlink, "index file .* is missing"),
    "index of another tar": ("trees-train-000001.idx", swap_with_next, "offsets are those of another tar"),
    "index one short": ("trees-train-000001.idx", drop_a_line, "lists 8 samples, the manifest 9"),
    "index empty": ("trees-train-000001.idx", lambda path: os.truncate(path, 0), "first line is b''"),
}


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(own_trees: Path, name: str, damage: Callable[[Path], object], words: str) -> None:
    assert len(open_split(own_trees).index) == 33
    damage(own_trees / name)
    with pytest.raises(UserError, match=words) as raised:
        open_split(own_trees)
    message = str(raised.value)
    assert name in message and "turbomim shard make" in message and "\n" not in message


def test_several_damaged_shards_are_counted(own_trees: Path) -> None:
    for name in ("trees-train-000001.tar", "trees-train-000003.tar"):
        (own_trees / name).unlink()
    with pytest.raises(UserError, match=r"000001\.tar' is missing; 2 of 4 shards"):
        open_split(own_trees)


def test_a_copied_split_is_hashed_once(own_trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def spy(path: Path) -> str:
        hashed.append(path.name)
        return original(path)

    original = file_sha256
    monkeypatch.setattr(manifest, "file_sha256", spy)
    make_newer(own_trees / "trees-train-000002.tar")
    open_split(own_trees)
    open_split(own_trees)
    assert hashed == ["trees-train-000002.tar"]


def test_a_folder_without_a_manifest(tmp_path: Path, tiny_split: Split) -> None:
    words = r"no manifest\.json in .*give the folder that `turbomim shard make` or"
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=words):
            open_split(path)
    with pytest.raises(UserError, match=r"did you mean its sub-folder 'trees'\?"):
        open_split(tiny_split.folder.parent)
    with pytest.raises(UserError, match="Not a directory"):
        open_split(tiny_split.folder / "classes.json")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"turbomim-split-1"', '"other"', "format is 'other'"),
        ('"samples": 9,', '"samples": 8,', "fingerprint does not belong"),
        ('"trees-train-000000.tar"', '"../trees-train-000000.tar"', "is not a shard name"),
        ('"trees-train-000000.tar"', '"trees.tar"', "is not a shard name"),
        ('"classes"', '"klasses"', "'classes' is missing"),
        ("{", "[", "is not a manifest"),
        ('"samples": 9,', '"samples": 9000,', "9,000 samples do not fit"),
        ('"made": {', '"made": {"indexed": 5, ', "indexed is 5"),
        ('"made": {', '"made": {"indexed": {"image": ["a b"], "label": null}, ', "not the extensions"),
        ('"made": {', '"made": {"indexed": {"image": 7}, ', "not the extensions"),
        ('"made": {', '"made": 7, "x": {', "wrong type"),
    ],
)
def test_an_edited_manifest_is_refused(own_trees: Path, old: str, new: str, words: str) -> None:
    path = own_trees / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=words):
        load_manifest(Folder(own_trees))


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("photos [a].v2.tar", True),
        ("\u00e4\udcff.tar", True),
        ("a/b.tar", False),
        ("../a.tar", False),
        (".tar", False),
        (".hidden.tar", False),
        ("a\n.tar", False),
        ("a\u009b.tar", False),
        ("a\ud800.tar", False),
        ("a.tgz", False),
    ],
)
def test_names_of_foreign_shards(name: str, fits: bool) -> None:
    shards = (Shard(name=name, samples=1, bytes=10240, sha256="0"),)
    made = {"indexed": {"image": ["jpg"], "label": None}}
    manifest = Manifest(
        name="a", split="b", shards=shards, classes=(), fingerprint=fingerprint_of(shards), made=made
    )
    if fits:
        assert Manifest.from_json(manifest.to_json()) == manifest
        return
    with pytest.raises(ValueError, match="is not a shard name"):
        Manifest.from_json(manifest.to_json())


def test_shards_that_nobody_hashed() -> None:
    shards = (Shard(name="a.tar", samples=1, bytes=10240, sha256="", index_sha256="1"),)
    made = {"indexed": {"image": ["jpg"], "label": None}, "tars": "https://host/folder"}
    manifest = Manifest(
        name="a", split="b", shards=shards, classes=(), fingerprint=fingerprint_of(shards), made=made
    )
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.tars == "https://host/folder"
    assert manifest.fingerprint != fingerprint_of([replace(shards[0], index_sha256="2")])
    assert manifest.fingerprint != fingerprint_of([replace(shards[0], sha256="1", index_sha256="")])
    for broken, words in (
        (manifest.to_json().replace('"index_sha256": "1"', '"index_sha256": ""'), "has no sha256"),
        (manifest.to_json().replace('"https://host/folder"', "7"), "tars is 7, not the URL"),
    ):
        with pytest.raises(ValueError, match=words):
            Manifest.from_json(broken)


def test_no_samples(tmp_path: Path) -> None:
    empty = Manifest(name="a", split="b", shards=(), classes=(), fingerprint=fingerprint_of(()), made={})
    (tmp_path / "manifest.json").write_text(empty.to_json())
    with pytest.raises(UserError, match="0 samples"):
        open_split(tmp_path)


def test_inspect(tiny_split: Split, photo_folder: Path) -> None:
    summary = summarise(open_split(tiny_split.folder))
    opened = [Image.open(path) for path in sorted(photo_folder.glob("*/*"))]
    shorts = sorted(min(image.size) for image in opened)
    assert (len(summary.manifest.shards), summary.sampled, summary.unreadable) == (4, 33, 0)
    assert summary.classes == (("ash", 11), ("birch", 11), ("cedar", 11))
    assert summary.formats == {"JPEG": 29, "PNG": 3, "WEBP": 1}
    assert (summary.short_side[0], summary.short_side[3], summary.short_side[-1]) == (
        shorts[0],
        shorts[16],
        shorts[-1],
    )
    assert summary.histogram[:2] == (sum(s < 64 for s in shorts), sum(64 <= s < 128 for s in shorts))
    sizes = [path.stat().st_size for path in photo_folder.glob("*/*")]
    assert summary.image_bytes_mean == pytest.approx(sum(sizes) / 33)
    assert summarise(open_split(tiny_split.folder), sample=5).sampled == 5


def test_format_summary_is_printable(tiny_split: Split) -> None:
    text = format_summary(summarise(open_split(tiny_split.folder)))
    assert tiny_split.manifest.fingerprint in text and "33 in 4 shards" in text and "ash 11" in text
    assert all(line.isprintable() for line in text.split("\n"))
