"""Samples of a foreign tar: members that follow each other and share a name up to the first dot, as in
WebDataset.

Which member is the image and which the label is a `Choice`.  The result is the tar's index, line by line.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from turbomim.pipeline.photographs import MAX_IMAGE_BYTES
from turbomim.pipeline.tar import LABEL_BYTES, NO_LABEL, is_label
from turbomim.pipeline.tar_walk import BadTar, TarMember, walk_tar

IMAGE_EXTENSIONS: Final = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff")

# what webdataset passes over: `__meta__` and what lies in such a folder
META: Final = re.compile(r"__[^/]*__(/|$)")
NOT_PRINTABLE: Final = re.compile(rb"[^!-~]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which members of a sample are read, by what follows the first dot of their names, lower-cased.

    image: one of these; empty: the one whose last extension is an image's.  label: None for no labels.
    """

    image: tuple[str, ...] = ()
    label: str | None = "cls"

    def is_image(self, extension: str) -> bool:
        """Whether a member with this extension is the sample's image."""
        if self.image:
            return extension in self.image
        return extension.rpartition(".")[2] in IMAGE_EXTENSIONS


@dataclass(kw_only=True, slots=True)
class TarSamples:
    """What a tar holds. lines: its index, one a sample with an image.

    labelled: samples of `lines` with a label's member; numbered: those whose label is not -1.  images: their
    number by the image's extension.  without: key and extensions of each sample that has no image.  others:
    files that are part of no sample.
    """

    lines: list[str] = field(default_factory=list)
    labelled: int = 0
    numbered: int = 0
    images: Counter[str] = field(default_factory=Counter)
    without: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    others: int = 0


def read_samples_of(descriptor: int, choice: Choice) -> TarSamples:
    """List the samples of a tar.  Raises BadTar, as `walk_tar` does and for a sample that is ambiguous."""
    found = TarSamples()
    seen: set[str] = set()
    for key, group in groupby(_members(descriptor, found), lambda named: named[0]):
        members = [(extension, member) for _, extension, member in group]
        place = members[0][1].offset
        extensions = [extension for extension, _ in members]
        if key in seen or len(set(extensions)) < len(extensions):
            why = "stand apart" if key in seen else f"are named twice ({', '.join(extensions[:8])})"
            raise BadTar(
                place, f"members of the sample {key!a} {why}: its members must follow each other, each once"
            )
        seen.add(key)
        images = [(extension, member) for extension, member in members if choice.is_image(extension)]
        if not images:
            found.without.append((key, tuple(extensions)))
            continue
        if len(images) > 1:
            names = " and ".join(extension for extension, _ in images[:2])
            raise BadTar(place, f"the sample {key!a} has two images, {names}: choose with --image EXT")
        extension, image = images[0]
        if image.size > MAX_IMAGE_BYTES:
            raise BadTar(place, f"the image of {key!a} has {image.size:,} bytes, over the limit of 2 GiB")
        found.images[extension] += 1
        for extension, member in members:
            if extension == choice.label:
                found.labelled += 1
                found.numbered += _read_label(descriptor, member, key) != NO_LABEL
        found.lines.append(" ".join(f"{ext} {m.offset} {m.size} {_printable(m.name)}" for ext, m in members))
    return found


def split_name(name: bytes) -> tuple[str, str] | None:
    """Split a member's name into the sample's key and the extension; None if it is no sample's.

    The key goes up to the first dot of the base name.  The extension is printable and lower-cased.  Hidden
    files, files without an extension and `__x__` are no part of a sample, as in webdataset.
    """
    text = name.decode(errors="surrogateescape")
    folder, slash, base = text.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension or META.match(text):
        return None
    return f"{folder}{slash}{stem}", _printable(extension.encode(errors="surrogateescape")).lower()


def _printable(name: bytes) -> str:
    """Replace what would break a line of the index, or a terminal, by '_'."""
    return NOT_PRINTABLE.sub(b"_", name).decode()


def _members(descriptor: int, found: TarSamples) -> Iterator[tuple[str, str, TarMember]]:
    """Yield key, extension and member of what belongs to samples, and count what does not."""
    for member in walk_tar(descriptor):
        parts = split_name(member.name)
        if parts is None:
            found.others += 1
        else:
            yield *parts, member


def _read_label(descriptor: int, member: TarMember, key: str) -> int:
    """Give a sample's label, NO_LABEL for none.  Raises BadTar."""
    content = os.pread(descriptor, min(member.size, LABEL_BYTES), member.offset)
    if member.size > LABEL_BYTES or not is_label(content):
        raise BadTar(
            member.offset,
            f"the label of {key!a} is {content!r} ({member.size:,} bytes), not a decimal number of at most "
            f"{LABEL_BYTES} digits, or -1 for none: choose with --label EXT, or --label none to read no "
            "labels",
        )
    return int(content)
