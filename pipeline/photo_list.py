"""Photographs named by a list: a CSV or TSV file of paths and labels.

Columns: `path` and, if there is one, `label`, in any order and among others below a header; without a header
the first is the path and the second, if there is one, the label.  A label is a class name, or, if all of them
are plain numbers, the class itself.  Paths are relative to the root, or absolute and inside it.
"""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from turbomim.pipeline.errors import UserError
from turbomim.pipeline.photographs import BadImage, Photograph, Photographs, assign_keys, stamp
from turbomim.pipeline.remedies import why
from turbomim.pipeline.tar import NO_LABEL

DIALECTS = {".csv": csv.excel, ".tsv": csv.excel_tab}
NUMBER = re.compile("0|[1-9][0-9]*")
MAX_CLASSES = 1_000_000

# line, path, label of a row
Row = tuple[int, str, str]


def read_list(source: Path, root: Path | None = None) -> Photographs:
    """List the image files that `source`, a .csv or .tsv file, names.

    root: what relative paths start from (default: the list's folder).  Rows without path or label, with other
    numbers of columns, or with a path listed before, are refused, with their line.  Raises UserError: the
    list cannot be read or is not UTF-8, a path leads out of the root, a class number is over 999,999, or no
    row is left.
    """
    root = source.parent if root is None else root
    if not root.is_dir():
        raise UserError(f"--root {str(root)!r} is no folder: give the one that the paths start from")
    top = os.path.abspath(root)
    refused: list[BadImage] = []
    row_of: dict[str, Row] = {}
    for line, path, label in _rows(source, refused):
        inside = _inside(source, top, line, path)
        if inside in row_of:
            reason = f"line {line}: listed before, in line {row_of[inside][0]}"
            refused.append(BadImage(path=inside, reason=reason))
        else:
            row_of[inside] = (line, inside, label)
    if not row_of:
        first = f"; {refused[0].reason}" if refused else ""
        raise UserError(f"{str(source)!r} names no images: give rows of path,label{first}")
    paths = sorted(row_of, key=os.fsencode)
    classes, labels = _classes(source, [row_of[path] for path in paths])
    images = []
    for path, key, label_number in zip(paths, assign_keys(paths), labels, strict=True):
        size, mtime_ns = stamp(os.path.join(top, path))
        images.append(Photograph(path=path, key=key, label=label_number, bytes=size, mtime_ns=mtime_ns))
    return Photographs(
        root=root, images=tuple(images), classes=classes, other_files={}, refused=tuple(refused)
    )


def _rows(source: Path, refused: list[BadImage]) -> Iterator[Row]:
    """Yield the rows with a path and, if there is such a column, a label; the others go to `refused`."""
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, DIALECTS[source.suffix.lower()], strict=True)
            columns: list[str] = []
            for cells in reader:
                if not cells:
                    continue
                if not columns:
                    columns = _header(source, reader.line_num, cells)
                    if "path" in cells:
                        continue
                line, path = reader.line_num, cells[columns.index("path")] if len(cells) else ""
                problem = ""
                if len(cells) != len(columns):
                    problem = f"{len(cells)} columns, not {len(columns)}"
                elif not path or "\0" in path:
                    problem = "no path" if not path else "a path with a zero byte"
                elif "label" in columns and not cells[columns.index("label")]:
                    problem = "no label"
                if problem:
                    refused.append(BadImage(path=path, reason=f"line {line}: {problem}"))
                else:
                    yield line, path, cells[columns.index("label")] if "label" in columns else ""
    except OSError as error:
        raise UserError(f"cannot read {str(source)!r}: {why(error, 'check the path')}") from error
    except csv.Error as error:
        raise UserError(
            f"{str(source)!r}, line {reader.line_num}: {error}; quote cells that hold quotes or line breaks"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{str(source)!r}, line {_undecodable_line(source)}: not UTF-8 text; save it as UTF-8"
        ) from error


def _header(source: Path, line: int, cells: list[str]) -> list[str]:
    """Name the columns, from the first row."""
    if "path" in cells:
        return cells
    if {"path", "label"} & {cell.strip().lower() for cell in cells}:
        raise UserError(
            f"{str(source)!r}, line {line}: a header without a column path ({', '.join(cells)!a}); write "
            "path, and label if there is one, above the columns"
        )
    if len(cells) > 2:
        raise UserError(
            f"{str(source)!r}, line {line}: {len(cells)} columns and no header; write path,label above them"
        )
    if cells[0].isidentifier():
        raise UserError(
            f"{str(source)!r}, line {line}: {cells[0]!a} is no image file's name; if the line is a header, "
            "its columns must be called path and label; if not, write path,label above it"
        )
    return ["path", "label"][: len(cells)]


def _inside(source: Path, top: str, line: int, path: str) -> str:
    """Give the path relative to `top`, '/' separated.  Raises UserError if it lies outside."""
    full = os.path.normpath(os.path.join(top, path))
    if not full.startswith(os.path.join(top, "")):
        raise UserError(
            f"{str(source)!r}, line {line}: {path!r} leads out of {top!r}; give the folder that holds all "
            "images as --root"
        )
    return os.path.relpath(full, top)


def _classes(source: Path, rows: list[Row]) -> tuple[tuple[str, ...], list[int]]:
    """Give the class names by label, and each row's label."""
    names = {label for _, _, label in rows}
    if names == {""}:
        return (), [NO_LABEL] * len(rows)
    if not all(NUMBER.fullmatch(name) for name in names):
        classes = tuple(sorted(names, key=os.fsencode))
        label_of = {name: label for label, name in enumerate(classes)}
        return classes, [label_of[label] for _, _, label in rows]
    for line, _, label in rows:
        # by length first: Python refuses to read numbers of thousands of digits
        if len(label) > len(str(MAX_CLASSES)) or int(label) >= MAX_CLASSES:
            raise UserError(
                f"{str(source)!r}, line {line}: label {label[:20]} is over {MAX_CLASSES - 1:,}; number the "
                "classes from 0"
            )
    labels = [int(label) for _, _, label in rows]
    return tuple(str(label) for label in range(max(labels) + 1)), labels


def _undecodable_line(source: Path) -> int:
    with open(source, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
