"""Photographs named by a list: a .csv, .tsv or .txt file of paths and labels.

A label is a class name, or, if all of them are whole numbers, the class itself, with -1 for none.  Paths are
relative to the root, or absolute and inside it.
"""

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Final

from turbomim.pipeline.making.list_rows import Row, read_rows
from turbomim.pipeline.making.photographs import Photograph, Photographs, assign_keys, stamp
from turbomim.pipeline.places.opening import meant_url
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.words import counted
from turbomim.pipeline.tars.listings import BadImage
from turbomim.pipeline.tars.tar import NO_LABEL

# 1.0 is 1, as tables write numbers once one of them is missing; 01 is a name
CLASS: Final = re.compile(r"(-1|0|[1-9][0-9]*)(\.0*)?")
NUMBER: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?")
MISSING: Final = frozenset(("nan", "null", "none", "na", "n/a"))
MAX_CLASSES: Final = 1_000_000


def read_list(source: Path, root: Path | None = None, columns: str | None = None) -> Photographs:
    """List the image files that `source` names.

    root: what relative paths start from (default: the list's folder).  columns: as in `read_rows`.  Rows
    without path or label, with other numbers of columns, or that stand there twice, are refused, with their
    line.  Raises UserError as `read_rows` does, and: a path leads out of the root, stands there with two
    labels, a class number is over 999,999, or no row is left.
    """
    root = source.parent if root is None else root
    if not root.is_dir():
        raise UserError(f"--root {str(root)!r} is no folder: give the one that the paths start from")
    top = os.path.abspath(root)
    rows, refused, note = read_rows(source, columns)
    row_of: dict[str, Row] = {}
    for line, path, label in rows:
        inside = _inside(source, top, line, path)
        before, _, other = row_of.setdefault(inside, (line, inside, label))
        if before == line:
            continue
        if _canonical(label) != _canonical(other):
            raise UserError(
                f"{str(source)!r}, line {line}: {inside!r} has the label {label!r}, and in line {before} "
                f"{other!r}: remove one of the rows"
            )
        refused.append(BadImage(path=inside, reason=f"line {line}: listed before, in line {before}"))
    listed = sorted(row_of.values(), key=lambda row: os.fsencode(row[1]))
    kept, classes, labels, more = _classes(source, listed, refused)
    if not kept:
        first = f"; {refused[0].reason}" if refused else ""
        raise UserError(f"{str(source)!r} names no images: give rows of path,label{first}")
    paths = [path for _, path, _ in kept]
    images = []
    for path, key, label_number in zip(paths, assign_keys(paths), labels, strict=True):
        size, mtime_ns = stamp(os.path.join(top, path))
        images.append(Photograph(path=path, key=key, label=label_number, bytes=size, mtime_ns=mtime_ns))
    return Photographs(
        root=str(root),
        images=tuple(images),
        classes=classes,
        other_files={},
        refused=tuple(refused),
        notes=(note, *more),
    )


def check_there(source: Path, found: Photographs) -> None:
    """Raise UserError if no file of a list could be seen: its paths start elsewhere, or name other images."""
    if any((image.bytes, image.mtime_ns) != (0, 0) for image in found.images):
        return
    first, top = found.images[0].path, os.path.abspath(found.root)
    try:
        folders = sorted(entry.path for entry in os.scandir(top) if entry.is_dir())
    except OSError:
        folders = []
    near = next((folder for folder in folders if os.path.exists(os.path.join(folder, first))), "")
    start = f"as --root {os.path.relpath(near)!r} (that one is there)" if near else "as --root"
    images = counted(len(found.images), "image")
    raise UserError(
        f"{str(source)!r}: of {images} that it names none can be seen, the first is {first!r} in {top!r}; "
        f"put it into the folder that its paths start from, or give that {start}"
    )


def _inside(source: Path, top: str, line: int, path: str) -> str:
    """Give the path relative to `top`, '/' separated.  Raises UserError if it lies outside."""
    if meant_url(path):
        raise UserError(
            f"{str(source)!r}, line {line}: {path!r} is a URL, and images of a list are files of this "
            "machine: copy them here, or give their folder in the store in place of the list"
        )
    full = os.path.normpath(os.path.join(top, path))
    above = os.path.join(top, "")
    if not full.startswith(above):
        raise UserError(
            f"{str(source)!r}, line {line}: {path!r} leads out of {top!r}; give the folder that holds all "
            "images as --root"
        )
    return full[len(above) :]


def _classes(
    source: Path, rows: list[Row], refused: list[BadImage]
) -> tuple[list[Row], tuple[str, ...], list[int], list[str]]:
    """Give the rows that are kept, the class names by label, each row's label, and what is to be said."""
    names = {label for _, _, label in rows}
    if names <= {""}:
        return rows, (), [NO_LABEL] * len(rows), []
    given = {name for name in names if name.lower() not in MISSING}
    if given and all(CLASS.fullmatch(name) for name in given):
        kept = [row for row in rows if row[2] in given]
        refused += [
            BadImage(path=path, reason=f"line {line}: no label ({label})")
            for line, path, label in rows
            if label not in given
        ]
        return kept, *_numbers(source, kept)
    numbers = {name: Decimal(name) for name in names if NUMBER.fullmatch(name)}
    _check_numbers(source, rows, numbers)
    notes = []
    if len(numbers) == len(names):
        classes = tuple(sorted(names, key=numbers.__getitem__))
        first = next(name for name in classes if not CLASS.fullmatch(name))
        notes = [f"labels are no whole numbers from 0, as {first!r}: taken as names, in the numbers' order"]
    else:
        classes = tuple(sorted(names, key=os.fsencode))
        if numbers:
            number, name = min(numbers, key=len), min(names - numbers.keys(), key=os.fsencode)
            notes = [
                f"labels are a mix, {counted(len(numbers), 'number')} as {number!r} and "
                f"{counted(len(names) - len(numbers), 'name')} as {name!r}: all taken as names"
            ]
    for name in sorted(names - given):
        images = counted(sum(label == name for _, _, label in rows), "image")
        notes.append(f"the label {name!r} of {images} is taken as a name: leave it empty where there is none")
    label_of = {name: label for label, name in enumerate(classes)}
    return rows, classes, [label_of[label] for _, _, label in rows], notes


def _numbers(source: Path, rows: list[Row]) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Give class names, labels and what is to be said, where the labels are the classes themselves."""
    for line, _, label in rows:
        # by length first: Python refuses to read numbers of thousands of digits
        digits = label.partition(".")[0]
        if len(digits) > len(str(MAX_CLASSES)) or int(digits) >= MAX_CLASSES:
            raise UserError(
                f"{str(source)!r}, line {line}: label {label[:20]} is over {MAX_CLASSES - 1:,}; number the "
                "classes from 0"
            )
    labels = [int(_canonical(label)) for _, _, label in rows]
    unlabelled = labels.count(NO_LABEL)
    if unlabelled == len(labels):
        return (), labels, ["labels are all -1: no labels"]
    least, most = min(label for label in labels if label != NO_LABEL), max(labels)
    note = f"labels are numbers from {least:,} to {most:,}"
    note += f", and -1, no label, for {counted(unlabelled, 'image')}" if unlabelled else ""
    return tuple(str(label) for label in range(most + 1)), labels, [note]


def _check_numbers(source: Path, rows: list[Row], numbers: dict[str, Decimal]) -> None:
    """Raise UserError where one number is written in two ways, which would be two classes."""
    first: dict[Decimal, tuple[int, str]] = {}
    for line, _, label in sorted(row for row in rows if row[2] in numbers):
        before, other = first.setdefault(numbers[label], (line, label))
        if other != label:
            raise UserError(
                f"{str(source)!r}, line {line}: label {label!r} and, in line {before}, {other!r} are one "
                "number written in two ways: write it in one"
            )


def _canonical(label: str) -> str:
    """A whole number without its fraction; any other label as it is."""
    match = CLASS.fullmatch(label)
    return match[1] if match else label
