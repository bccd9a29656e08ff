"""What is carried to a bare GPU machine: GPU code blanked, wheels and photographs chosen, parts checked.

Planted bugs and the test that fails on each: a container without the wanted GPU's code blanked too, machine
code alone blanked, bytes cut out instead of blanked: `test_code_of_other_gpus_is_blanked`; a layout that is
not known taken for a known one: `test_what_is_not_understood_stays`; parts in any order, a sum that nobody
looks at: `test_a_part_that_is_damaged_or_missing_is_named`; the first photographs instead of some of all:
`test_photographs_come_from_all_over`; other Pythons' modules carried: `test_all_of_it`.
"""

from __future__ import annotations

import argparse
import importlib.util
import struct
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from turbomim.benchmarks.gpu import pack
from turbomim.benchmarks.gpu.archive_parts import NAME, SUMS, unpack_parts, write_parts
from turbomim.benchmarks.gpu.thin_fatbin import CONTAINER, ENTRY, MACHINE_CODE, MAGIC, thin
from turbomim.pipeline.system.errors import UserError

PTX = 1


def container(*entries: tuple[int, int, bytes]) -> bytes:
    """GPU code of (kind, sm, payload)."""
    body = b"".join(
        ENTRY.pack(kind, 257, ENTRY.size + 8, len(code), 0, 0, 0, 0, sm) + b"optional" + code
        for kind, sm, code in entries
    )
    return CONTAINER.pack(MAGIC, 1, CONTAINER.size, len(body)) + body


def library(gpu_code: bytes) -> bytearray:
    """An ELF file with this section of GPU code."""
    names = b"\0.shstrtab\0.nv_fatbin\0.text\0"
    text = bytes(range(256))
    content = {".shstrtab": names, ".nv_fatbin": gpu_code, ".text": text}
    offsets, whole = {}, bytearray(64)
    for name, section in content.items():
        offsets[name] = len(whole)
        whole += section + bytes(-len(section) % 8)
    table = len(whole)
    for name, section in content.items():
        # place of the name, type, flags, address, offset, bytes, and four more numbers
        at = names.index(name.encode() + b"\0")
        whole += struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, offsets[name], len(section), 0, 0, 8, 0)
    whole[:6] = b"\x7fELF\2\1"
    struct.pack_into("<Q", whole, 0x28, table)
    struct.pack_into("<HHH", whole, 0x3A, 64, 3, 0)
    return whole


def test_code_of_other_gpus_is_blanked() -> None:
    both = container((MACHINE_CODE, 80, b"A" * 40), (MACHINE_CODE, 90, b"B" * 24), (PTX, 90, b"P" * 16))
    others = container((MACHINE_CODE, 75, b"C" * 32), (PTX, 75, b"Q" * 8))
    before = library(both + bytes(8) + others)
    after = bytearray(before)
    total, kept = thin(after, 90)
    assert len(after) == len(before)
    # what a GPU cannot do without stays: all of a container that has nothing else for it
    for code, stays in ((b"A" * 40, False), (b"B" * 24, True), (b"P" * 16, False), (b"C" * 32, True)):
        assert (code in after) is stays, code
    assert after == before.replace(b"A" * 40, bytes(40)).replace(b"P" * 16, bytes(16))
    assert (total, total - kept) == (len(both) + len(others) - 2 * CONTAINER.size, 40 + 16)


@pytest.mark.parametrize("damage", ["no ELF", "32 bits", "an entry too long", "a header too short"])
def test_what_is_not_understood_stays(damage: str) -> None:
    code = bytearray(container((MACHINE_CODE, 80, b"A" * 40), (MACHINE_CODE, 90, b"B" * 24)))
    if damage == "an entry too long":
        struct.pack_into("<I", code, CONTAINER.size + 8, 1000)
    if damage == "a header too short":
        struct.pack_into("<I", code, CONTAINER.size + 4, 8)
    before = library(bytes(code))
    if damage == "no ELF":
        before[:4] = b"text"
    if damage == "32 bits":
        before[4] = 1
    after = bytearray(before)
    total, kept = thin(after, 90)
    assert after == before and total == kept


def test_a_library_of_dali_gets_smaller() -> None:
    found = importlib.util.find_spec("nvidia.nvimgcodec")
    assert found is not None and found.submodule_search_locations
    (path,) = Path(found.submodule_search_locations[0]).glob("libnvimgcodec.so.*")
    content = bytearray(path.read_bytes())
    size = len(content)
    total, kept = thin(content, 90)
    assert len(content) == size
    assert 0 < kept < total / 3


def test_the_last_byte_counts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("one")
    (whole,) = write_parts(source, tmp_path, 10_000)
    size = whole.stat().st_size
    write_parts(source, tmp_path, size - 1)
    sums = tmp_path / SUMS
    sums.write_text(sums.read_text().splitlines(keepends=True)[0])
    with pytest.raises(UserError, match="does not list all parts"):
        unpack_parts(tmp_path, tmp_path / "to")


def test_parts_come_back_as_they_were(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    out.mkdir()
    (source / "deep" / "a.bin").write_bytes(bytes(range(256)) * 50)
    (source / "b.txt").write_text("one")
    parts = write_parts(source, out, 100)
    assert len(parts) > 2 and all(part.stat().st_size <= 100 for part in parts)
    unpack_parts(out, tmp_path / "to")
    assert (tmp_path / "to" / "deep" / "a.bin").read_bytes() == bytes(range(256)) * 50
    assert (tmp_path / "to" / "b.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("flip", rf"{NAME}\.01 \(100 bytes\) differs from its SHA-256"),
        ("remove", rf"{NAME}\.01 is missing"),
        ("no sums", f"{SUMS} is missing"),
        ("a line less", "does not list all parts"),
        ("another order", "does not list all parts"),
    ],
)
def test_a_part_that_is_damaged_or_missing_is_named(tmp_path: Path, damage: str, said: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.bin").write_bytes(bytes(range(256)) * 50)
    parts = write_parts(source, tmp_path, 100)
    sums = tmp_path / SUMS
    lines = sums.read_text().splitlines(keepends=True)
    if damage == "flip":
        parts[1].write_bytes(bytes(100))
    elif damage == "remove":
        parts[1].unlink()
    elif damage == "no sums":
        sums.unlink()
    elif damage == "a line less":
        sums.write_text("".join(lines[:-1]))
    else:
        sums.write_text("".join(reversed(lines)))
    with pytest.raises(UserError, match=said):
        unpack_parts(tmp_path, tmp_path / "to")
    assert not list((tmp_path / "to").glob("*")) or damage == "a line less"


def photographs(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"class-{number % 3}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    (folder / "readme.txt").write_text("no photograph")
    return folder


def test_photographs_come_from_all_over(tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 30)
    assert pack.gather_photographs(images, 6, tmp_path / "some") == 6
    copied = [path.relative_to(tmp_path / "some") for path in (tmp_path / "some").rglob("*.jpg")]
    assert {path.parts[0] for path in copied} == {"class-0", "class-1", "class-2"}
    assert pack.gather_photographs(images, 300, tmp_path / "all") == 30
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "empty" / "drawing.png")
    with pytest.raises(UserError, match="no JPEG below"):
        pack.gather_photographs(tmp_path / "empty", 6, tmp_path / "none")


WHEEL = {
    "nvidia/dali/libdali.so": bytes(
        library(container((MACHINE_CODE, 80, b"A" * 40), (MACHINE_CODE, 90, b"B" * 24)))
    ),
    "nvidia/dali/backend.cpython-312-x86_64-linux-gnu.so": b"ours",
    "nvidia/dali/backend.cpython-311-x86_64-linux-gnu.so": b"another Python's",
    "nvidia/dali/include/dali.h": b"for compilers",
    "nvidia/nvimgcodec/extensions/libnvtiff_ext.so.0": b"another decoder",
    "nvidia/nvimgcodec/extensions/libnvjpeg_ext.so.0": b"JPEG's",
    "nvidia/dali/__init__.py": b"",
}


def test_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the download."""

    def download(dali: str, python: str, folder: Path) -> list[Path]:
        folder.mkdir()
        path = folder / "nvidia_dali_cuda130-2.4.0-py3-none-manylinux_2_28_x86_64.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in WHEEL.items():
                wheel.writestr(name, content)
        return [path]

    monkeypatch.setattr(pack, "download", download)
    options = argparse.Namespace(
        out=tmp_path / "out", sm=90, python="3.12", dali="2.4.0", photographs=5, part_mb=40,
        images=photographs(tmp_path / "images", 9),
    )  # fmt: skip
    (tmp_path / "work").mkdir()
    parts = pack.pack(options, tmp_path / "work")
    assert [part.name for part in parts] == [f"{NAME}.00"]
    said = capsys.readouterr().out
    assert "wheels: nvidia_dali_cuda130-2.4.0" in said and "bench gpu" in said
    unpack_parts(tmp_path / "out", tmp_path / "to")
    site = tmp_path / "to" / "site"
    carried = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert carried == {
        "nvidia/dali/libdali.so", "nvidia/dali/backend.cpython-312-x86_64-linux-gnu.so",
        "nvidia/nvimgcodec/extensions/libnvjpeg_ext.so.0", "nvidia/dali/__init__.py",
    }  # fmt: skip
    code = (site / "nvidia" / "dali" / "libdali.so").read_bytes()
    assert b"A" * 40 not in code and b"B" * 24 in code
    assert len(list((tmp_path / "to" / "photographs").rglob("*.jpg"))) == 5
