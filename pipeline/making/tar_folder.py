"""A folder of foreign tars: which files it holds, in which order, and what must not be replaced there."""

import os
import re
from collections import Counter
from pathlib import Path

from turbomim.pipeline.making.plan import default_name
from turbomim.pipeline.making.settings import WORD
from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.manifest import BAD, MANIFEST, SUMS, load_manifest

LISTINGS = (MANIFEST, SUMS, "_info.json", BAD, "classes.json", "sizes.json", "wids.json")
SPLIT_WORDS = re.compile(r"(?<![a-z])(train|val|valid|validation|test)(?![a-z])", re.IGNORECASE)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def find_tars(folder: Path) -> list[str]:
    """List a folder's `*.tar` in natural order, a-2 before a-10.  Raises UserError: none, a hostile name."""
    try:
        files = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"cannot list {str(folder)!r}: {explain(error, 'give a folder of tar files')}"
        ) from error
    tars = [file for file in files if file.endswith(".tar")]
    if not tars:
        kinds = Counter(file.partition(".")[2] or file for file in files).most_common(5)
        found = ", ".join(f"{count:,} {ascii(kind)[1:-1]}" for kind, count in kinds) or "nothing"
        raise UserError(f"no .tar files in {str(folder)!r}, but {found}: give a folder of tar files")
    for tar in tars:
        if not tar.isprintable() or URL.match(tar):
            raise UserError(
                f"the file name {tar!a} in {str(folder)!r} is not printable text, or looks like a URL, which "
                "other readers may follow or run: rename it"
            )
    return sorted(tars, key=natural)


def natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key of a file name that takes its numbers as numbers."""
    parts = re.split(r"([0-9]+)", name)
    return [
        (text, int(number or 0)) for text, number in zip(parts[::2], [*parts[1::2], ""], strict=True)
    ], name


def name_split(folder: Path, tars: list[str], name: str | None, split: str | None) -> tuple[str, str]:
    """Give the names of data set and split.  Raises UserError: not words, or two splits in one folder."""
    words = {match[1].lower() for tar in tars for match in SPLIT_WORDS.finditer(tar)}
    if len(words) > 1 and split is None:
        raise UserError(
            f"{str(folder)!r} holds several splits by the names of its tars ({', '.join(sorted(words))}): "
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


def check_listings(folder: Path, force: bool) -> None:
    """Raise UserError if the folder was made by `shard make`, or if without `force` a listing is there."""
    for entry in os.scandir(folder):
        # where a file is about to be written under a temporary name, the link's target would be
        if entry.is_symlink() and entry.name.startswith(".") and entry.name.endswith(".tmp"):
            raise UserError(
                f"{str(folder)!r} holds the link {entry.name!a}, which leads elsewhere: remove it"
            )
    there = [name for name in LISTINGS if os.path.lexists(folder / name)]
    try:
        foreign = load_manifest(Folder(folder)).foreign
    except UserError:
        # no manifest, or the file of another program
        foreign = None
    if foreign is False:
        raise UserError(
            f"{str(folder)!r} was made by `turbomim shard make` and has its index: check it with "
            "`turbomim shard verify`"
        )
    if there and not force:
        remedy = (
            "check it with `turbomim shard verify`, or index it anew with --force"
            if foreign
            else "index a new folder of links to the tars, or replace them with --force"
        )
        what = "is indexed already" if foreign else f"holds files that would be replaced ({', '.join(there)})"
        raise UserError(f"{str(folder)!r} {what}: {remedy}")
