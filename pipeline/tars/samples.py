"""Samples of a foreign tar: members that follow each other and share a key, as in WebDataset.

Which member is the image and which the label say `Members`.  The result is the tar's index, line by line.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from turbomim.pipeline.tars.index import Members
from turbomim.pipeline.tars.keys import Keys, looks_like_image, printable, split_name
from turbomim.pipeline.tars.open_tar import BadTar, OpenTar
from turbomim.pipeline.tars.tar import LABEL_BYTES, NO_LABEL, is_label
from turbomim.pipeline.tars.walk import TarMember, walk_tar

# sizes and offsets of one image fit int32 in the sample index
MAX_IMAGE_BYTES = 2**31 - 1


@dataclass(kw_only=True, slots=True)
class TarSamples:
    """What a tar holds. lines: its index, one a sample with an image.

    labelled: samples of `lines` with a label's member; numbered: those whose label is not -1.  images: their
    number by the image's extension.  without: key and extensions of each sample that has no image.  unread:
    of what is not read in `lines`, images and labels by their names, by extension.  others: files that are
    part of no sample.
    """

    lines: list[str] = field(default_factory=list)
    labelled: int = 0
    numbered: int = 0
    images: Counter[str] = field(default_factory=Counter)
    without: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    others: int = 0


def read_samples_of(tar: OpenTar, choice: Members) -> TarSamples:
    """List the samples of a tar.  Raises BadTar, as `walk_tar` does and for a sample that is ambiguous."""
    found = TarSamples()
    seen: set[str] = set()
    for key, group in groupby(_members(tar, choice.keys, found), lambda named: named[0]):
        members = [(extension, member) for _, extension, member in group]
        place = members[0][1].offset
        extensions = [extension for extension, _ in members]
        if key in seen or len(set(extensions)) < len(extensions):
            why = "stand apart" if key in seen else f"are named twice ({', '.join(extensions[:8])})"
            raise BadTar(
                place, f"members of the sample {key!r} {why}: its members must follow each other, each once"
            )
        seen.add(key)
        images = [(extension, member) for extension, member in members if choice.is_image(extension)]
        if not images:
            found.without.append((key, tuple(extensions)))
            continue
        if len(images) > 1:
            names = " and ".join(extension for extension, _ in images[:2])
            two = choice.keys == "first-dot" and any("." in extension for extension, _ in images)
            other = ", or, if they are two samples, --keys last-dot" if two else ""
            raise BadTar(place, f"the sample {key!r} has two images, {names}: choose with --image EXT{other}")
        extension, image = images[0]
        if image.size > MAX_IMAGE_BYTES:
            raise BadTar(place, f"the image of {key!r} has {image.size:,} bytes, over the limit of 2 GiB")
        found.images[extension] += 1
        for extension, member in members:
            if extension == choice.label:
                found.labelled += 1
                found.numbered += _read_label(tar, member, key) != NO_LABEL
            elif member is not image and (looks_like_image(extension) or extension.endswith(".cls")):
                found.unread[extension] += 1
        found.lines.append(" ".join(f"{ext} {m.offset} {m.size} {printable(m.name)}" for ext, m in members))
    return found


def _members(tar: OpenTar, keys: Keys, found: TarSamples) -> Iterator[tuple[str, str, TarMember]]:
    """Yield key, extension and member of what belongs to samples, and count what does not."""
    for member in walk_tar(tar):
        parts = split_name(member.name, keys)
        if parts is None:
            found.others += 1
        else:
            yield *parts, member


def _read_label(tar: OpenTar, member: TarMember, key: str) -> int:
    """Give a sample's label, NO_LABEL for none.  Raises BadTar."""
    content = tar.read_at(min(member.size, LABEL_BYTES), member.offset)
    if member.size > LABEL_BYTES or not is_label(content):
        raise BadTar(
            member.offset,
            f"the label of {key!r} is {content!r} ({member.size:,} bytes), not a decimal number of at most "
            f"{LABEL_BYTES} digits, or -1 for none: choose with --label EXT, or --label none to read no "
            "labels",
        )
    return int(content)
