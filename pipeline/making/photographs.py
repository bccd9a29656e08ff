"""Photographs to pack: what is known of each, and how a folder is searched for them.

Nothing is opened here and nothing is left out silently: every file is a photograph, or counted among the
other files by extension.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path

from turbomim.pipeline.making.list_rows import DELIMITERS
from turbomim.pipeline.making.passed_over import PassedOver
from turbomim.pipeline.places.opening import is_remote, open_place
from turbomim.pipeline.places.place import Status
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.listings import BadImage
from turbomim.pipeline.tars.tar import NO_LABEL

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
MAX_KEY = 80
# of files that may be lists: a folder may have a text for each image
MOST_LISTS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """One image file, or one object of a store. path: relative to the root, '/' separated.

    label: place in `Photographs.classes`, NO_LABEL where those are none.
    bytes, mtime_ns: size and time of the last change when it was listed; 0 where that could not be seen.
    version: of an object then.
    """

    path: str
    key: str
    label: int
    bytes: int
    mtime_ns: int
    version: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photographs:
    """The image files below a root, a path or a URL, sorted by path.

    other_files: what else lay there, files by extension.  lists: of these, files that may name images, those
    nearest to the root.  refused: what a list named and cannot be packed.
    notes: what people should know of how they were found, in lines.
    """

    root: str
    images: tuple[Photograph, ...]
    classes: tuple[str, ...]
    other_files: dict[str, int]
    lists: tuple[str, ...] = ()
    refused: tuple[BadImage, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """Files by path below a source, without those passed over, and the names of its folders."""

    files: dict[str, Status]
    folders: list[str]


def find_photographs(source: str | os.PathLike[str], skip: str | None = None) -> Photographs:
    """List the image files below `source`, a folder or a place, with labels as in torchvision's ImageFolder.

    Class folders: the sorted sub-folders, those without images included, so that labels agree between splits.
    Images lying in `source` itself: no classes, for one would say nothing.  Links are followed; what systems
    leave beside images is passed over, see `PassedOver`.  skip: more patterns of such names.  Raises
    UserError: not a folder, unreadable, no images, or images both beside and inside class folders.
    """
    source, passed = os.fspath(source), PassedOver(skip)
    listed = _list_place(source, passed) if is_remote(source) else _list_folder(Path(source), passed)
    paths, others, lists = list[str](), Counter[str](), list[str]()
    for path in listed.files:
        extension = os.path.splitext(path)[1].lower()
        if extension in EXTENSIONS:
            paths.append(path)
            continue
        others[extension] += 1
        if extension in DELIMITERS:
            lists.append(path)
    other_files = dict(sorted(others.items(), key=lambda item: (-item[1], os.fsencode(item[0]))))
    if not paths:
        raise UserError(
            f"no images below {source!r}: looked for {' '.join(EXTENSIONS)}, "
            f"found {describe_others(other_files)}{'; ' * bool(passed.summary())}{passed.summary()}"
        )
    paths.sort(key=os.fsencode)
    classes = _classes(source, paths, listed.folders)
    label_of = {name: label for label, name in enumerate(classes)}
    images = tuple(
        Photograph(
            path=path,
            key=key,
            label=label_of.get(path.partition("/")[0], NO_LABEL),
            bytes=listed.files[path].bytes,
            mtime_ns=listed.files[path].changed_ns,
            version=listed.files[path].version,
        )
        for path, key in zip(paths, assign_keys(paths), strict=True)
    )
    notes = (passed.summary(),) if passed.summary() else ()
    return Photographs(
        root=source,
        images=images,
        classes=classes,
        other_files=other_files,
        lists=tuple(nsmallest(MOST_LISTS, lists, key=lambda path: (path.count("/"), path))),
        notes=notes,
    )


def stamp(file: str | os.PathLike[str]) -> tuple[int, int]:
    """Give a file's size in bytes and the time of its last change in ns: 0, 0 where they cannot be seen."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        # reading it later gives the reason for bad.jsonl
        return 0, 0
    return status.st_size, status.st_mtime_ns


def describe_others(other_files: dict[str, int], most: int = 5) -> str:
    """Say how many files of which extension, most frequent first: `12 .txt, 3 .heic`."""
    # an extension comes from a file name: shown escaped, so that the message stays one line
    shown = [
        f"{count:,} {repr(extension)[1:-1] if extension else 'without extension'}"
        for extension, count in list(other_files.items())[:most]
    ]
    if len(other_files) > most:
        shown.append(f"{sum(list(other_files.values())[most:]):,} others")
    return ", ".join(shown) or "no files"


def assign_keys(paths: list[str]) -> list[str]:
    """Give each relative path a unique WebDataset key of at most 80 characters out of [A-Za-z0-9_-].

    '/' becomes '_', anything else outside the set '-'.  A key that lost characters, or that several paths
    would share (a.jpg and a.png), ends in a hash of its path: 8 hex digits, more where those are not enough.
    """
    plain = [os.path.splitext(path)[0].replace("/", "_") for path in paths]
    keys = [key_characters(stem) for stem in plain]
    hashed = _shared(keys) | {at for at, key in enumerate(keys) if key != plain[at] or len(key) > MAX_KEY}
    stems = list(keys)
    for digits in (8, 16, 32):
        for at in hashed:
            digest = hashlib.sha256(os.fsencode(paths[at])).hexdigest()[:digits]
            keys[at] = f"{stems[at][: MAX_KEY - digits - 1]}-{digest}"
        hashed = _shared(keys)
        if not hashed:
            return keys
    at, *_ = sorted(hashed)
    raise UserError(f"no unique key for {paths[at]!r}: rename the file")


def key_characters(text: str) -> str:
    """A text with '-' for every character that a key cannot have."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)


def _list_folder(source: Path, passed: PassedOver) -> Listed:
    """List a folder of this machine."""
    if not source.is_dir():
        problem = "is a file" if source.exists() else "does not exist"
        raise UserError(
            f"{str(source)!r} {problem}: give a folder of images, or of one folder per class, or a .csv, "
            ".tsv or .txt list"
        )
    files = {
        path: Status(bytes=size, changed_ns=mtime_ns)
        for path, (size, mtime_ns) in _walk(source, "", (), passed)
    }
    with os.scandir(source) as listing:
        folders = [entry.name for entry in listing if _is_folder(entry) and not passed.fits(entry.name)]
    return Listed(files=files, folders=folders)


def _list_place(source: str, passed: PassedOver) -> Listed:
    """List a place of a store, whose folders are but parts of names."""
    try:
        found = open_place(source).files()
    except OSError as error:
        raise UserError(f"cannot list {source!r}: {explain(error, 'check the URL')}") from error
    above = set[str]()
    for path in found:
        folder = path.rpartition("/")[0]
        while folder and folder not in above:
            above.add(folder)
            folder = folder.rpartition("/")[0]
    files, inside = dict[str, Status](), Counter[str]()
    for path, status in found.items():
        parts = path.split("/")
        at = next((at for at, part in enumerate(parts) if passed.fits(part)), len(parts))
        if at < len(parts) - 1:
            inside["/".join(parts[: at + 1])] += 1
        elif at < len(parts):
            passed.count(parts[at])
        # some programs put an empty object for a folder
        elif status.bytes or path not in above:
            files[path] = status
    for folder, count in inside.items():
        passed.count(folder.rpartition("/")[2], inside=count)
    folders = {folder for folder in above if "/" not in folder and not passed.fits(folder)}
    return Listed(files=files, folders=sorted(folders))


def _walk(
    source: Path, folder: str, ancestors: tuple[tuple[int, int], ...], passed: PassedOver
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (relative path, stamp) of every file below; a link to a folder above is not entered again."""
    here = source / folder
    try:
        status = here.stat()
        with os.scandir(here) as listing:
            entries = list(listing)
    except OSError as error:
        raise UserError(
            f"cannot read the folder {str(here)!r}: {explain(error, 'check its permissions')}"
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        return
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if passed.fits(entry.name):
            folder_files = _files_below(entry.path) if _is_folder(entry) else None
            passed.count(entry.name, inside=folder_files)
        elif _is_folder(entry):
            yield from _walk(source, path, (*ancestors, identity), passed)
        else:
            yield path, stamp(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # a link to itself
        return False


def _files_below(folder: str) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def _classes(source: str, paths: list[str], folders: list[str]) -> tuple[str, ...]:
    beside = [path for path in paths if "/" not in path]
    if not beside:
        return tuple(sorted(folders, key=os.fsencode))
    if len(beside) < len(paths):
        inside = next(path for path in paths if "/" in path)
        raise UserError(
            f"{source!r} holds images both outside ({len(beside):,}, as {beside[0]!r}) and inside class "
            f"folders ({len(paths) - len(beside):,}, as {inside!r}): put all into class folders, or all into "
            "one, or give a .csv, .tsv or .txt list of paths and labels"
        )
    return ()


def _shared(keys: list[str]) -> set[int]:
    counts = Counter(keys)
    return {at for at, key in enumerate(keys) if counts[key] > 1}
