"""Packing: byte-identical output, and nothing but what was packed."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.tar import tar_end, tar_member


def save_image(path: Path, seed: int = 0, side: int = 40, form: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(texture(seed, side, side)).save(path, format=form)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def members(folder: Path) -> dict[str, bytes]:
    """Every member of every tar of a split, by name."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found.update({member.name: tar.extractfile(member).read() for member in tar})  # type: ignore[union-attr]
    return found


def bad_entries(folder: Path) -> dict[str, str]:
    lines = (folder / "bad.jsonl").read_text().splitlines()
    return {entry["path"]: entry["reason"] for entry in map(json.loads, lines)}


def test_output_is_the_same_for_any_worker_count(photo_folder: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        make_shards(photo_folder, tmp_path / f"{workers}", ShardSettings(shard_size=5), workers=workers)
    first = contents(tmp_path / "1")
    assert len(first) == 2 * 7 + 7
    assert first == contents(tmp_path / "2")


def test_output_tells_nothing_of_place_and_time(photo_folder: Path, tmp_path: Path) -> None:
    make_shards(photo_folder, tmp_path / "out")
    everything = b"".join(contents(tmp_path / "out").values())
    assert b"trees" in everything
    for part in photo_folder.parent.parts[1:] + tmp_path.parts[1:]:
        assert len(part) < 5 or part.encode() not in everything


def test_another_seed_gives_another_order_of_the_same_samples(photo_folder: Path, tmp_path: Path) -> None:
    one = make_shards(photo_folder, tmp_path / "1", ShardSettings(seed=1))
    two = make_shards(photo_folder, tmp_path / "2", ShardSettings(seed=2))
    assert members(tmp_path / "1") == members(tmp_path / "2")
    assert list(members(tmp_path / "1")) != list(members(tmp_path / "2"))
    assert one.manifest.fingerprint != two.manifest.fingerprint


def test_image_bytes_and_labels_pass_through(photo_folder: Path, tiny_split: Split) -> None:
    from torchvision.datasets import ImageFolder

    expected: dict[str, bytes] = {}
    for name, label in ImageFolder(str(photo_folder)).samples:
        path = Path(name)
        key = f"{path.parent.name}_{path.stem}"
        expected |= {f"{key}.cls": str(label).encode(), f"{key}{path.suffix}": path.read_bytes()}
    assert members(tiny_split.folder) == expected


def test_classes_are_mixed(tiny_split: Split) -> None:
    with tarfile.open(tiny_split.shard_path(0)) as tar:
        order = [member.name.partition("_")[0] for member in tar if member.name.endswith(".cls")]
    assert set(order) == {"ash", "birch", "cedar"} and order != sorted(order)


def test_tar_bytes_are_those_of_tarfile() -> None:
    stream = io.BytesIO()
    pairs = [("a.cls", b"0"), ("a.jpg", bytes(range(256)) * 9), ("b.cls", b"11"), ("b.png", bytes(1024))]
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in pairs:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o444
            tar.addfile(info, io.BytesIO(content))
    ours = b"".join(tar_member(name, content) for name, content in pairs)
    assert ours + tar_end(len(ours)) == stream.getvalue()


def test_headers_are_ustar_and_fixed(tiny_split: Split) -> None:
    with tarfile.open(tiny_split.shard_path(0)) as tar:
        infos = tar.getmembers()
    fixed = {(info.mtime, info.uid, info.gid, info.mode, info.uname, info.gname, info.type) for info in infos}
    assert fixed == {(0, 0, 0, 0o444, "", "", tarfile.REGTYPE)}
    content = tiny_split.shard_path(0).read_bytes()
    assert {content[info.offset + 257 : info.offset + 265] for info in infos} == {b"ustar\x0000"}
    assert not any(info.pax_headers for info in infos)


def test_a_shard_count_gives_equal_shards(photo_folder: Path, tmp_path: Path) -> None:
    report = make_shards(photo_folder, tmp_path / "out", ShardSettings(shard_count=4))
    assert [shard.samples for shard in report.manifest.shards] == [8, 8, 8, 9]


def test_a_long_folder_name_makes_a_name(tmp_path: Path) -> None:
    save_image(tmp_path / ("x" * 120) / "a.jpg")
    report = make_shards(tmp_path / ("x" * 120), tmp_path / "out")
    assert report.manifest.name == "x" * 100


def test_listings_agree(tiny_split: Split) -> None:
    def read(name: str) -> Any:
        return json.loads((tiny_split.folder / name).read_text())

    shards = tiny_split.manifest.shards
    assert read("sizes.json") == {shard.name: shard.samples for shard in shards}
    assert read("wids.json")["shardlist"] == [
        {"url": shard.name, "nsamples": shard.samples, "filesize": shard.bytes} for shard in shards
    ]
    sums = dict(
        line.split("  ")[::-1] for line in (tiny_split.folder / "SHA256SUMS").read_text().splitlines()
    )
    everything = contents(tiny_split.folder)
    del everything["SHA256SUMS"]
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in everything.items()}


def test_progress_counts_images(photo_folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_shards(
        photo_folder, tmp_path / "out", ShardSettings(shard_size=20), progress=lambda *step: seen.append(step)
    )
    assert seen == [(0, 33), (20, 33), (33, 33)]
