"""At which dot of its members' names the key of a foreign sample ends: a rule for all tars of a folder.

WebDataset cuts at the first dot, so that `a.input.jpg` and `a.target.jpg` are one sample.  Many people's
files have dots in their stems, `img_v1.000.jpg`, which makes one sample of all.  The names show which it is.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from turbomim.pipeline.system.words import counted

# where a sample's key ends in the base name of its members; WebDataset's rule is the first
Keys = Literal["first-dot", "last-dot"]
KEYS: tuple[Keys, ...] = ("first-dot", "last-dot")

# what webdataset passes over: `__meta__` and what lies in such a folder
META: Final = re.compile(r"__[^/]*__(/|$)")
NOT_PRINTABLE: Final = re.compile(rb"[^!-~]")
IMAGE_EXTENSIONS: Final = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff")


def split_name(name: bytes, keys: Keys) -> tuple[str, str] | None:
    """Split a member's name into the sample's key and the extension; None if it is no sample's.

    The extension is printable and lower-cased.  Hidden files, files without an extension and `__x__` are no
    part of a sample, as in webdataset.
    """
    text = name.decode(errors="surrogateescape")
    key, extension = split_key(text, keys)
    if not extension or text.rpartition("/")[2].startswith(".") or META.match(text):
        return None
    return key, printable(extension.encode(errors="surrogateescape")).lower()


def printable(name: bytes) -> str:
    """Replace what would break a line of the index, or a terminal, by '_'."""
    return NOT_PRINTABLE.sub(b"_", name).decode()


def looks_like_image(extension: str) -> bool:
    """Whether an extension ends like an image's."""
    return extension.rpartition(".")[2] in IMAGE_EXTENSIONS


@dataclass(frozen=True, kw_only=True, slots=True)
class TarNames:
    """What the names in one tar say of both rules.

    dotted: a name that they split differently, "" for none.  trouble: what is wrong with keys up to the first
    dot, "" for nothing.  fields: what stands between the first and the last dot of images; recurring: those
    under several keys.  single: no key up to the first dot has two images.  labelled: whether there are
    labels, by the first dot and by the last.  sound: each key up to the last dot has one image, and none is
    another key with a dot behind it.  kinds: the sets of extensions that those have.
    """

    dotted: str
    trouble: str
    fields: frozenset[str]
    recurring: frozenset[str]
    single: bool
    labelled: tuple[bool, bool]
    sound: bool
    kinds: frozenset[frozenset[str]]


def look_at_names(names: Iterable[bytes], is_image: Callable[[str], bool], label: str | None) -> TarNames:
    """Group the names of a tar by both rules.  label: extension of labels, None where they are not read."""
    first: dict[str, list[str]] = defaultdict(list)
    last: dict[str, list[str]] = defaultdict(list)
    dotted = ""
    for name in names:
        one = split_name(name, "first-dot")
        # most names have but one dot
        other = split_name(name, "last-dot") if name.count(b".") > 1 else one
        for groups, part in ((first, one), (last, other)):
            if part is not None:
                groups[part[0]].append(part[1])
        if one != other:
            dotted = dotted or name.decode(errors="surrogateescape")
    images = {key: [ext for ext in extensions if is_image(ext)] for key, extensions in first.items()}
    odd = next((key for key, some in images.items() if len(some) != 1), None)
    keys_of: Counter[str] = Counter(ext.rpartition(".")[0] for some in images.values() for ext in some)
    return TarNames(
        dotted=dotted,
        trouble="" if odd is None else f"{odd!r} would be a sample with {counted(len(images[odd]), 'image')}",
        fields=frozenset(keys_of),
        recurring=frozenset(field for field, keys in keys_of.items() if field and keys > 1),
        single=all(len(some) < 2 for some in images.values()),
        labelled=(_has(first, label), _has(last, label)),
        sound=all(sum(map(is_image, extensions)) == 1 for extensions in last.values())
        and not any(key[:at] in last for key in last for at in _dots(key)),
        kinds=frozenset(map(frozenset, last.values())),
    )


def choose_keys(tars: list[TarNames]) -> tuple[Keys, str]:
    """Choose the rule for tars, and say which and why; "" where the names have but one dot.

    The last dot only where the first one gives no samples and the last one leaves no doubt: fields that recur
    in many samples, as `input` and `target`, may be of one sample.
    """
    dotted = next((tar.dotted for tar in tars if tar.dotted), "")
    if not dotted:
        return "first-dot", ""
    counts = Counter(field for tar in tars for field in tar.fields)
    recurring = {field for field, number in counts.items() if field and number > 1}.union(
        *(tar.recurring for tar in tars)
    )
    trouble = next((tar.trouble for tar in tars if tar.trouble), "")
    if not trouble and len(counts) > 1:
        trouble = f"images would be of {len(counts):,} kinds"
    if not trouble and any(tar.labelled[1] for tar in tars) and not any(tar.labelled[0] for tar in tars):
        trouble = "no sample would have a label"
    usual = f"keys end at the first dot of a name, as {dotted!r}: --keys last-dot if they do not"
    if not trouble:
        return "first-dot", usual
    clear = len(counts) == 1 or (
        all(map(str.isdigit, recurring))
        and (all(tar.single for tar in tars) or all(re.search(r"\d", field) for field in counts if field))
    )
    if clear and all(tar.sound for tar in tars) and len(frozenset().union(*(tar.kinds for tar in tars))) == 1:
        why = f"at the first, {trouble}; --keys first-dot if it is so"
        return "last-dot", f"keys end at the last dot of a name, as {dotted!r}: {why}"
    return "first-dot", usual


def _has(groups: Mapping[str, list[str]], label: str | None) -> bool:
    return label is not None and any(label in extensions for extensions in groups.values())


def _dots(key: str) -> list[int]:
    return [at for at, letter in enumerate(key) if letter == "." and "/" not in key[at:]]


def split_key(name: str, keys: Keys) -> tuple[str, str]:
    """Split a member's name into the sample's key and the extension, "" where there is no dot to split at."""
    folder, slash, base = name.rpartition("/")
    at = base.find(".") if keys == "first-dot" else base.rfind(".")
    stem, extension = (base[:at], base[at + 1 :]) if at >= 0 else (base, "")
    return f"{folder}{slash}{stem}", extension
