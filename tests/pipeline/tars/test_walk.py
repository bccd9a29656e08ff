"""The tar walker: right offsets in every format, and a reason at a byte for everything hostile or damaged."""

import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import nvidia.dali as dali
import pytest
import webdataset
from tests.pipeline.tars.tar_bytes import END, GNU, header, member, padded, pax, write_tar

from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.tars.open_tar import BadTar, open_tar
from turbomim.pipeline.tars.walk import TarMember, walk_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
NAMES = {
    "short": "a_{}.jpg",
    "99 characters": "d" * 93 + "_{}.jpg",
    "100 characters": "d" * 94 + "_{}.jpg",
    "prefix": "folder/" * 20 + "x_{}.jpg",
    "300 characters": "folder/" * 40 + "x" * 13 + "_{}.jpg",
    "one word of 300": "x" * 294 + "_{}.jpg",
    "non-ASCII": "Bäume/Eiche_{}.jpg",
    "newline and escape": "a\n\x1b[31m_{}.jpg",
}
CANNOT = {("ustar", "300 characters"), ("ustar", "one word of 300")}


def walk(path: Path) -> list[TarMember]:
    with open_tar(Folder(path.parent), path.name) as tar:
        return list(walk_tar(tar))


def contents(path: Path) -> list[tuple[str, bytes]]:
    data = path.read_bytes()
    return [(m.name.decode(), data[m.offset : m.offset + m.size]) for m in walk(path)]


def files_named(pattern: str) -> list[tuple[str, bytes]]:
    # sizes around the block
    return [(pattern.format(n), bytes([n]) * size) for n, size in enumerate((1, 511, 512, 513, 0, 5000))]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_offsets_are_right_in_every_format(form: str, name: str, tmp_path: Path) -> None:
    if (form, name) in CANNOT:
        with pytest.raises(ValueError, match="name is too long"):
            write_tar(tmp_path / "a.tar", files_named(NAMES[name]), FORMATS[form])
        return
    files = files_named(NAMES[name])
    write_tar(tmp_path / "a.tar", files, FORMATS[form])
    assert contents(tmp_path / "a.tar") == files


def test_what_gnu_tar_writes(tmp_path: Path) -> None:
    for number, name in enumerate(("a.jpg", "l" * 200 + ".jpg", "ü.png")):
        (tmp_path / "in" / "sub").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "sub" / name).write_bytes(bytes([number]) * 700)
    for form in ("ustar", "gnu", "posix"):
        if form == "ustar":
            (tmp_path / "in" / "sub" / ("l" * 200 + ".jpg")).rename(tmp_path / "in" / "sub" / "l.jpg")
        command = [
            "tar",
            f"--format={form}",
            "-cf",
            str(tmp_path / "a.tar"),
            "-C",
            str(tmp_path / "in"),
            "sub",
        ]
        subprocess.run(command, check=True)
        if form == "ustar":
            (tmp_path / "in" / "sub" / "l.jpg").rename(tmp_path / "in" / "sub" / ("l" * 200 + ".jpg"))
        with tarfile.open(tmp_path / "a.tar") as tar:
            expected = [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg()]  # type: ignore[union-attr]
        assert contents(tmp_path / "a.tar") == expected and len(expected) == 3


@pytest.mark.parametrize("name", ["k{}", "k" * 250 + "{}", "Bäume/{}"])
def test_what_webdataset_writes(name: str, tmp_path: Path) -> None:
    samples = [{"__key__": name.format(n), "jpg": bytes([n]) * 900, "cls": n} for n in range(5)]
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for sample in samples:
            writer.write(dict(sample))
    with webdataset.ShardWriter(str(tmp_path / "s-%03d.tar"), maxcount=100, verbose=0) as writer:
        for sample in samples:
            writer.write(dict(sample))
    for path in (tmp_path / "a.tar", tmp_path / "s-000.tar"):
        read = dict(contents(path))
        assert len(read) == 10
        assert all(read[f"{s['__key__']}.jpg"] == s["jpg"] for s in samples)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["short", "non-ASCII", "one word of 300"])
def test_wds2idx_agrees_but_for_gnu_long_names(form: str, name: str, tmp_path: Path) -> None:
    if (form, name) in CANNOT:
        return
    write_tar(tmp_path / "a.tar", files_named(NAMES[name]), FORMATS[form])
    tool = [str(Path(sys.executable).with_name("wds2idx")), str(tmp_path / "a.tar"), str(tmp_path / "a.idx")]
    done = subprocess.run(tool, capture_output=True, text=True)
    if done.returncode:
        # the tool of an early DALI reads ASCII alone
        early = [int(part) for part in dali.__version__.split(".")] < [2, 4]
        assert early and name == "non-ASCII" and "UnicodeDecodeError" in done.stderr, done.stderr
        return
    lines = (tmp_path / "a.idx").read_text().splitlines()[1:]
    theirs = [(int(words[-3]), int(words[-2])) for words in (line.split(" ") for line in lines)]
    ours = [(m.offset, m.size) for m in walk(tmp_path / "a.tar")]
    if (form, name) == ("gnu", "one word of 300"):
        # theirs point into the block that holds the name
        assert all(offset < right for (offset, _), (right, _) in zip(theirs, ours, strict=True))
    else:
        assert theirs == ours


def test_names_and_sizes_at_their_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(
        header(b"b" * 100, 3, prefix=b"p" * 155)
        + padded(b"one")
        # a name's bytes behind the NUL, and the prefix of a GNU header, are no part of the name
        + header(b"c.jpg\0garbage", 3, magic=GNU, prefix=b"times")
        + padded(b"two")
        + member(b"folder/", kind=b"5")
        + member(b"old folder/", kind=b"\0")
        + member(b"d.jpg", b"six", kind=b"7")
        + member(b"x", pax(comment=b"no = path", path=b"e.jpg"), b"x")
        + member(b"ignored", b"5")
        + member(b"g", pax(comment=b"for all"), b"g")
        + member(b"././@LongLink", b"some link\0", b"K")
        + header(b"f.jpg", b"        1 \0\0")
        + padded(b"7")
        + END
    )
    assert [(m.name, m.size) for m in walk(path)] == [
        (b"p" * 155 + b"/" + b"b" * 100, 3),
        (b"c.jpg", 3),
        (b"d.jpg", 3),
        (b"e.jpg", 1),
        (b"f.jpg", 1),
    ]


def test_a_member_of_over_8_gib(tmp_path: Path) -> None:
    size = 9 * 2**30 + 5
    base256 = b"\x80" + size.to_bytes(11, "big")
    heads = {
        "base-256": header(b"a.bin", base256),
        "pax": member(b"x", pax(size=str(size).encode()), b"x") + header(b"a.bin", 0),
    }
    for name, head in heads.items():
        path = tmp_path / f"{name}.tar"
        with open(path, "wb") as file:
            file.write(head)
            # a hole: no disk is used
            file.seek(len(head) + size + -size % 512)
            file.write(member(b"b.jpg", b"here") + END)
        found = walk(path)
        assert [(m.name, m.size) for m in found] == [(b"a.bin", size), (b"b.jpg", 4)]
        with open(path, "rb") as file:
            file.seek(found[1].offset)
            assert file.read(4) == b"here"


A = member(b"a.jpg", b"a" * 600)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "at byte 0: the file is empty"),
    "100 bytes": (A[:100], "at byte 0: the file ends without"),
    "one header": (A[:512], "at byte 0: 'a.jpg' goes on to byte 1,536, the file ends at 512"),
    "in the data": (A + A[:700], "at byte 1,536: 'a.jpg' goes on to byte 3,072, the file ends at 2,236"),
    "in the padding": (A[:1200], "goes on to byte 1,536, the file ends at 1,200: cut off"),
    "no end": (A, "at byte 1,536: the file ends without"),
    "half an end": (A + bytes(512), "at byte 1,536: one zero block"),
    "lone zero block": (A + bytes(512) + A + END, "at byte 2,048: data behind the tar's end"),
    "two tars": (A + END + A + END, "at byte 2,560: data behind the tar's end"),
    "garbage header": (A + b"\x7f" * 512 + A + END, "at byte 1,536: no tar header here"),
    "wrong checksum": (header(b"a.jpg", 0, checksum=7) + END, "at byte 0: no tar header here"),
    "v7": (header(b"a.jpg", 0, magic=b"") + END, "at byte 0: a header of the old v7 format"),
    "size is no number": (header(b"a.jpg", b"0000000009x\0") + END, "not an octal number"),
    "negative size": (header(b"a.jpg", b"\xff" * 12) + END, "not an octal number"),
    "gigantic size": (header(b"a.jpg", b"\x80" + b"\x7f" * 11) + END, "goes on to byte"),
    "small size in base-256": (header(b"a.jpg", b"\x80" + bytes(10) + b"\1") + A + END, "in base-256"),
    "symbolic link": (member(b"a.jpg", kind=b"2") + END, "'a.jpg' is a symbolic link"),
    "hard link": (member(b"a.jpg", kind=b"1") + END, "is a hard link.*--hard-dereference"),
    "character device": (member(b"a.jpg", kind=b"3") + END, "is a character device"),
    "block device": (member(b"a.jpg", kind=b"4") + END, "is a block device"),
    "fifo": (member(b"a.jpg", kind=b"6") + END, "is a fifo"),
    "GNU sparse": (member(b"a.jpg", kind=b"S") + END, "is a sparse file"),
    "PAX sparse": (member(b"x", pax(GNU__sparse__major=b"1"), b"x") + A + END, "at byte 0: a sparse file"),
    "unknown kind": (member(b"a.jpg", kind=b"V") + END, "the unknown kind b'V'"),
    "folder with content": (member(b"a", b"data", kind=b"5") + END, "folder 'a' has 4 bytes"),
    "PAX size override": (
        member(b"x", pax(size=b"512"), b"x") + member(b"a.jpg", A) + END,
        "at byte 1,024: 'a.jpg' has two sizes, 1,536 and 512",
    ),
    "PAX size is text": (member(b"x", pax(size=b"-1"), b"x") + A + END, "the size of 'a.jpg' is b'-1'"),
    "PAX size for all": (member(b"g", pax(size=b"9"), b"g") + A + END, "one size for every member"),
    "PAX path for all": (member(b"g", pax(path=b"b.jpg"), b"g") + A + END, "one path for every member"),
    "PAX name with NUL": (member(b"x", pax(path=b"a.jpg\0.txt"), b"x") + A + END, "holds a NUL byte"),
    "PAX without an equals": (member(b"x", b"9 abcdef\n", b"x") + A + END, "a broken PAX header"),
    "PAX record too long": (member(b"x", b"99 path=a\n", b"x") + A + END, "a broken PAX header"),
    "PAX record of length 0": (member(b"x", b"0 path=a\n", b"x") + A + END, "a broken PAX header"),
    "GNU name with NUL": (member(b"L", b"a.jpg\0.txt\0", b"L") + A + END, "holds a NUL byte"),
    "endless long name": (header(b"L", 2**30, b"L") + A + END, "over the limit of 1,048,576"),
    "long name cut": (header(b"L", 3000, b"L") + A, "an extended header goes on to byte 3,584"),
    "long name of nothing": (member(b"L", b"a.jpg\0", b"L") + END, "the file it belongs to is missing"),
    "gzip": (b"\x1f\x8b\x08" + bytes(600), "compressed by gzip"),
    "bzip2": (b"BZh9" + bytes(600), "compressed by bzip2"),
    "xz": (b"\xfd7zXZ\0" + bytes(600), "compressed by xz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), "compressed by zstd"),
    "escapes in a name": (member(b"\x1b[2J\n.jpg", kind=b"2") + END, r"'\\x1b\[2J\\n.jpg' is a symbolic"),
}


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_and_damaged_tars(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(BadTar, match=words) as raised:
        walk(path)
    assert str(raised.value).isprintable()
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(BadTar, match="not a regular file"), open_tar(Folder(tmp_path), "a.tar"):
        pass
    with pytest.raises(BadTar, match="not a regular file"), open_tar(Folder(tmp_path), "."):
        pass


def test_no_damage_crashes_or_hangs_the_walker(tmp_path: Path) -> None:
    """Whatever bytes change, the walk ends with members inside the file or with BadTar."""
    path = tmp_path / "a.tar"
    wholes = []
    for form in ("gnu", "pax"):
        write_tar(path, files_named(NAMES["300 characters"]), FORMATS[form])
        assert len(walk(path)) == 6
        wholes.append(path.read_bytes())
    dice = random.Random(0)
    refused = 0
    for number in range(300):
        content = bytearray(wholes[number % 2])
        for _ in range(dice.choice((1, 3, 30))):
            content[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(content[: dice.choice((len(content), dice.randrange(len(content))))])
        try:
            members = walk(path)
            assert all(m.offset + m.size <= len(content) for m in members)
        except BadTar:
            refused += 1
    assert refused > 150
