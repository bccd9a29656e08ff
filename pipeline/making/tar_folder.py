"""A folder of foreign tars, here or in a store: which it holds, in which order, where their index goes."""

import os
import re
from collections import Counter
from pathlib import Path

from turbomim.pipeline.making.plan import default_name
from turbomim.pipeline.making.settings import WORD
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.opening import check_local, is_writable
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.system.durable import make_folder
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.manifest import BAD, MANIFEST, SUMS, load_manifest

LISTINGS = (MANIFEST, SUMS, "_info.json", BAD, "classes.json", "sizes.json", "wids.json")
SPLIT_WORDS = re.compile(r"(?<![a-z])(train|val|valid|validation|test)(?![a-z])", re.IGNORECASE)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def find_tars(place: Place) -> list[str]:
    """List a place's `*.tar` in natural order, a-2 before a-10.  Raises UserError: none, a hostile name."""
    folder = str(place)
    try:
        names = os.listdir(place.folder) if place.folder else place.files_here()
    except OSError as error:
        raise UserError(f"cannot list {folder!r}: {explain(error, 'give a folder of tar files')}") from error
    files = sorted(name for name in names if not name.startswith("."))
    tars = [file for file in files if file.endswith(".tar")]
    if not tars:
        kinds = Counter(file.partition(".")[2] or file for file in files).most_common(5)
        found = ", ".join(f"{count:,} {repr(kind)[1:-1]}" for kind, count in kinds)
        lacks = f"no .tar files in {folder!r}, but {found}" if found else f"no files in {folder!r}"
        raise UserError(f"{lacks}: give a folder of tar files")
    for tar in tars:
        if not tar.isprintable() or URL.match(tar):
            raise UserError(
                f"the file name {tar!r} in {folder!r} is not printable text, or looks like a URL, which "
                "other readers may follow or run: rename it"
            )
    return sorted(tars, key=natural)


def natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key of a file name that takes its numbers as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [
        (text, int(number or 0)) for text, number in zip(parts[::2], [*parts[1::2], ""], strict=True)
    ], name


def name_split(folder: str, tars: list[str], name: str | None, split: str | None) -> tuple[str, str]:
    """Give the names of data set and split.  Raises UserError: not words, or two splits in one folder."""
    words = {match[1].lower() for tar in tars for match in SPLIT_WORDS.finditer(tar)}
    if len(words) > 1 and split is None:
        raise UserError(
            f"{folder!r} holds several splits by the names of its tars ({', '.join(sorted(words))}): "
            "make a folder of links to the tars of each and index that, or name the one split with --split"
        )
    if name is None:
        name = default_name(folder)
    if split is None:
        split = words.pop() if words else "train"
    for option, word in (("--name", name), ("--split", split)):
        if not WORD.fullmatch(word):
            raise UserError(f"{option} is {word!r}: give at most 100 letters, digits, '-' and '_'")
    return name, split


def check_listings(place: Place, force: bool) -> None:
    """Raise UserError if the place was made by `shard make`, or if without `force` a listing is there."""
    folder = str(place)
    for entry in os.scandir(place.folder) if place.folder else ():
        # where a file is about to be written under a temporary name, the link's target would be
        if entry.is_symlink() and entry.name.startswith(".") and entry.name.endswith(".tmp"):
            raise UserError(f"{folder!r} holds the link {entry.name!r}, which leads elsewhere: remove it")
    if place.folder:
        there = [name for name in LISTINGS if os.path.lexists(place.folder / name)]
    else:
        statuses = place.statuses(LISTINGS)
        there = [n for n, status in zip(LISTINGS, statuses, strict=True) if isinstance(status, Status)]
    try:
        foreign = load_manifest(place).foreign
    except UserError:
        # no manifest, or the file of another program
        foreign = None
    if foreign is False:
        raise UserError(
            f"{folder!r} was made by `turbomim shard make` and has its index: check it with "
            "`turbomim shard verify`"
        )
    if there and not force:
        remedy = (
            "check it with `turbomim shard verify`, or index it anew with --force"
            if foreign
            else "index a new folder of links to the tars, or replace them with --force"
        )
        what = "is indexed already" if foreign else f"holds files that would be replaced ({', '.join(there)})"
        raise UserError(f"{folder!r} {what}: {remedy}")


def index_target(place: Place, into: str | None) -> Place:
    """Where index and manifest go.  Raises UserError: no folder, or a place that can only be read."""
    if into is None:
        if not is_writable(place):
            raise UserError(
                f"{str(place)!r} can only be read: give a folder for the index with --into FOLDER"
            )
        return place
    check_local("--into", into)
    if place.folder is not None:
        raise UserError("--into is for tars in a store: leave it out, and the index is put beside the tars")
    return Folder(make_folder(Path(into)))


def write_index(target: Place, name: str, text: bytes, force: bool) -> None:
    """Write an index file, unless it is there; another one of that name is kept without `force`."""
    if target.folder:
        there = os.path.lexists(target.folder / name)
        same = (target.folder / name).is_file() and target.read(name) == text
    else:
        try:
            there, same = True, target.read(name) == text
        except FileNotFoundError:
            there = same = False
    if there and not force:
        if same:
            return
        raise UserError(f"{target.at(name)!r} is there and differs from its tar: replace it with --force")
    put_file(target, name, text)


def put_file(target: Place, name: str, content: bytes) -> None:
    """Write a file of the split.  Raises UserError."""
    try:
        target.put(name, content)
    except OSError as error:
        helps = "check the permissions, or choose another folder" if target.folder else "check the store"
        raise UserError(f"cannot write {target.at(name)!r}: {explain(error, helps)}") from error
