"""What can happen to a split of tars, one function each; the tar that suffers is the first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from turbomim.pipeline.tars.manifest import MANIFEST, fingerprint_of
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.tar import BLOCK

DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Something that happens to a split, and whether it harms: what does not must not be reported.

    names: of the tars of the split it happens to, "ours" or "GNU" for long names in the GNU format.
    """

    name: str
    apply: Callable[[Split], object]
    harms: bool = True
    names: str = "ours"


def first_tar(split: Split) -> Path:
    """The tar that is damaged."""
    return split.shard_path(0)


def middle(split: Split) -> int:
    """Offset of the image in the middle of the first tar."""
    return int(split.index.image_offset_N[split.manifest.shards[0].samples // 2])


def cut(size: Callable[[Split], int]) -> Callable[[Split], None]:
    """Cut the first tar to a size in bytes."""
    return lambda split: os.truncate(first_tar(split), size(split))


def share(percent: int) -> Callable[[Split], int]:
    """A share of the first tar's bytes."""
    return lambda split: split.manifest.shards[0].bytes * percent // 100


def overwrite(offset: int, content: bytes, *, keep_time: bool = False) -> Callable[[Split], None]:
    """Overwrite bytes of the first tar; offset: from the middle image's first byte."""

    def apply(split: Split) -> None:
        path = first_tar(split)
        status = path.stat()
        with open(path, "r+b") as tar:
            tar.seek(middle(split) + offset)
            tar.write(content)
        if keep_time:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return apply


def swap(split: Split) -> None:
    """Give the two tars each other's names."""
    one, two = split.shard_path(0), split.shard_path(1)
    one.rename(split.folder / "kept")
    two.rename(one)
    (split.folder / "kept").rename(two)


def miscount(split: Split) -> None:
    """Write a manifest with one sample too few, fingerprint included."""
    shards = list(split.manifest.shards)
    shards[0] = replace(shards[0], samples=shards[0].samples - 1)
    wrong = replace(split.manifest, shards=tuple(shards), fingerprint=fingerprint_of(shards))
    (split.folder / MANIFEST).write_text(wrong.to_json())


def touch(split: Split) -> None:
    """Date the first tar after the manifest."""
    later = (split.folder / MANIFEST).stat().st_mtime_ns + DAY_NS
    os.utime(first_tar(split), ns=(later, later))


def stale_index(split: Split) -> None:
    """Put the index of the second tar beside the first."""
    shutil.copy(split.shard_path(1).with_suffix(".idx"), first_tar(split).with_suffix(".idx"))


def end_of_images(split: Split) -> int:
    """Offset behind the last image of the first tar."""
    last = split.manifest.shards[0].samples - 1
    return int(split.index.image_offset_N[last] + split.index.image_bytes_N[last])


DAMAGES = (
    Damage(name="none", apply=lambda split: None, harms=False),
    Damage(name="cut to 0 bytes", apply=cut(lambda _: 0)),
    Damage(name="cut to 100 bytes", apply=cut(lambda _: 100)),
    Damage(name="cut after one header", apply=cut(lambda _: BLOCK)),
    Damage(name="cut to 50 %", apply=cut(share(50))),
    Damage(name="cut to 90 %", apply=cut(share(90))),
    Damage(name="cut in the last padding", apply=cut(lambda split: end_of_images(split) + 1)),
    Damage(name="10 bytes of a header changed", apply=overwrite(-BLOCK, bytes(range(200, 210)))),
    Damage(name="a header of garbage in the middle", apply=overwrite(-BLOCK, bytes([137] * BLOCK))),
    Damage(name="10 bytes of an image changed", apply=overwrite(700, bytes(range(10)))),
    Damage(name="the same, with the old time", apply=overwrite(700, bytes(range(10)), keep_time=True)),
    Damage(name="a shard removed", apply=lambda split: first_tar(split).unlink()),
    Damage(name="two shards swapped", apply=swap),
    Damage(name="the index of another tar", apply=stale_index),
    Damage(name="a wrong count in the manifest", apply=miscount),
    Damage(name="a newer time, same content", apply=touch, harms=False),
    Damage(name="long names in the GNU format", apply=lambda split: None, harms=False, names="GNU"),
)
