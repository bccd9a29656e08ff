"""Rows of a list of photographs: how a .csv, .tsv or .txt file is cut into cells, and which cell is what.

Nothing is guessed without a word: `Columns.note` says which columns were taken, and what looks like a header
and is none that is known is an error.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.listings import BadImage

# by the file's ending: the usual delimiter, then those that are met too; "" is any space
DELIMITERS: Final = {".csv": (",", ";", "\t"), ".tsv": ("\t", ",", ";"), ".txt": ("", "\t", ",", ";")}
# what columns are called, without what is neither letter nor digit, the likeliest first
NAMES: Final[dict[str, tuple[str, ...]]] = {
    "path": (
        "path", "filepath", "imagepath", "imgpath", "filename", "imagefile", "imagefilename", "imagename",
        "imgname", "file", "image", "img", "fname", "paths", "filenames", "files", "images", "imageid",
        "imgid", "id",
    ),
    "label": (
        "label", "class", "category", "target", "labels", "classes", "y", "labelid", "classid", "categoryid",
        "targetid", "classindex", "classidx", "labelname", "classname", "categoryname", "synset", "wnid",
    ),
}  # fmt: skip
ENDING: Final = r"\.(jpe?g|png|webp|ppm|bmp|tiff?|gif|heic|avif)"
IMAGE: Final = re.compile(f".*{ENDING}", re.IGNORECASE | re.DOTALL)
FOLLOWED: Final = re.compile(rf'[^"].*{ENDING}\s', re.IGNORECASE)
QUOTED: Final = r'"(?:[^"]|"")*"'
SPACED: Final = re.compile(rf"(?P<path>{QUOTED}|\S.*?)(?:\s+(?P<label>{QUOTED}|\S+))?")
# characters of a header in a message
SHOWN: Final = 200
CHOOSE: Final = "--columns path=NAME,label=NAME"

# line, path and label of a row; the label is "" where the list has none
Row = tuple[int, str, str]
Cells = tuple[int, list[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which cells of a row are read. width: cells of a row; header: whether the first row names them."""

    path: int
    label: int | None
    width: int
    header: bool
    note: str


def read_rows(source: Path, columns: str | None) -> tuple[list[Row], list[BadImage], str]:
    """Give the rows of a list, those that name no image, with the reason, and which columns were taken.

    columns: `path=NAME,label=NAME`, what they are called in the header; `label=` for no labels.
    Raises UserError: the file cannot be read, is not UTF-8, has an open quote, or its columns are not clear.
    """
    rows: list[Row] = []
    refused: list[BadImage] = []
    chosen: Columns | None = None
    for line, cells in _cells(source):
        if chosen is None:
            chosen = _choose(f"{str(source)!r}, line {line}", cells, _wanted(columns))
            if chosen.header:
                continue
        path = cells[chosen.path] if chosen.path < len(cells) else ""
        label = "" if chosen.label is None or len(cells) != chosen.width else cells[chosen.label]
        problem = ""
        if len(cells) != chosen.width:
            problem = f"{len(cells)} columns, not {chosen.width}"
        elif not path or "\0" in path:
            problem = "no path" if not path else "a path with a zero byte"
        elif chosen.label is not None and not label:
            problem = "no label"
        if problem:
            refused.append(BadImage(path=path, reason=f"line {line}: {problem}"))
        else:
            rows.append((line, path, label))
    return rows, refused, chosen.note if chosen else ""


def _cells(source: Path) -> Iterator[Cells]:
    """Cut a list into rows that are not blank, each with its line, and cells without spaces around them."""
    try:
        content = source.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {str(source)!r}: {explain(error, 'check the path')}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{str(source)!r}, line {line}: not UTF-8 text; save it as UTF-8") from error
    first = next((line for line in io.StringIO(text, newline=None) if line.strip()), "")
    delimiter = _delimiter(source.suffix.lower(), first)
    if not delimiter:
        yield from _spaced(source, text)
        return
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(
            f"{str(source)!r}, line {reader.line_num}: {error}; quote cells that hold quotes or line "
            "breaks, and leave no space behind a quote"
        ) from error


def _delimiter(suffix: str, first: str) -> str:
    """Tell the delimiter by the first row: another than the usual one only where it gives path and label."""
    usual, *others = DELIMITERS[suffix]
    for delimiter in (usual, *others) if usual else others:
        try:
            cells = next(csv.reader([first.strip("\r\n")], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            # reading the list says why
            return usual
        cells = [cell.strip() for cell in cells]
        named = any(_plain(cell) in NAMES["path"] for cell in cells)
        if len(cells) > 1 and (named or IMAGE.fullmatch(cells[0])):
            return delimiter
    return usual


def _spaced(source: Path, text: str) -> Iterator[Cells]:
    """Cut lines into a path, which may hold spaces, and the label behind it, or all of them into a path.

    What ends like an image's name is no label.  Raises UserError where some rows have a label and some none.
    """
    found: list[Cells] = []
    lines: dict[int, int] = {}
    for line, written in enumerate(io.StringIO(text, newline=None), 1):
        row, where = written.strip(), f"{str(source)!r}, line {line}"
        match = SPACED.fullmatch(row)
        if match is None:
            continue
        path, label = match["path"], match["label"]
        if label is not None and IMAGE.fullmatch(label) and not path.startswith('"'):
            path, label = row, None
        cells = [path] if label is None else [path, label]
        if any(cell.startswith('"') and not re.fullmatch(QUOTED, cell) for cell in cells):
            raise UserError(f"{where}: a quote is not closed; close it, and write one in a name twice")
        if label is not None and not IMAGE.fullmatch(path) and (image := FOLLOWED.match(path)):
            raise UserError(
                f"{where}: more than one word behind {image[0].strip()!r}; quote what holds spaces"
            )
        found.append((line, [re.sub('""', '"', c[1:-1]).strip() if c.startswith('"') else c for c in cells]))
        lines.setdefault(len(cells), line)
    if len(lines) > 1:
        raise UserError(
            f"{str(source)!r}: line {lines[2]} has a label and line {lines[1]} has none; give each row a "
            "label behind its path, and quote paths that hold spaces"
        )
    yield from found


def _choose(where: str, cells: list[str], wanted: dict[str, str]) -> Columns:
    """Say which columns are path and label, by the first row.  Raises UserError where that is not clear."""
    names = [_plain(cell) for cell in cells]
    known = {role: [names.index(name) for name in NAMES[role] if name in names] for role in NAMES}
    image = [bool(IMAGE.fullmatch(cell)) for cell in cells]
    if wanted or (known["path"] and not any(image)):
        return _header(where, cells, known, wanted)
    # a number, a folder or an image's ending: none of these stands in a header
    if not any(image) and "/" not in cells[0] and not any(re.fullmatch(r"[-+.\d]+", cell) for cell in cells):
        raise UserError(
            f"{where}: {', '.join(cells)[:SHOWN]!r} looks like a header, and no column is known to be the "
            f"path: give {CHOOSE}; if it is none, write path,label above it"
        )
    if len(cells) > 2:
        raise UserError(f"{where}: {len(cells)} columns and no header; write path,label above them")
    if len(cells) == 1:
        return Columns(
            path=0, label=None, width=1, header=False, note="columns: no header; the path alone, no labels"
        )
    path = int(image == [False, True])
    order = "label, then path" if path else "path, then label"
    return Columns(path=path, label=1 - path, width=2, header=False, note=f"columns: no header; {order}")


def _header(where: str, cells: list[str], known: dict[str, list[int]], wanted: dict[str, str]) -> Columns:
    """Say which columns are path and label, by a header."""
    shown = ", ".join(cells)[:SHOWN]
    places: dict[str, int | None] = {}
    for role in NAMES:
        name = wanted.get(role)
        if name and name not in cells:
            raise UserError(f"{where}: no column is called {name!r}, but {shown!r}: give {CHOOSE}")
        places[role] = cells.index(name) if name else None if name == "" else next(iter(known[role]), None)
    path, label = places["path"], places["label"]
    if path is None or path == label:
        raise UserError(f"{where}: no column of {shown!r} is known to be the path: give {CHOOSE}")
    unread = [cell for at, cell in enumerate(cells) if at not in (path, label)]
    # a column without a name is an index, as of pandas
    if label is None and "label" not in wanted and any(unread):
        raise UserError(
            f"{where}: no column of {shown!r} is known to be the label: give {CHOOSE}, or --columns label= "
            "for no labels"
        )
    for place in (path, label):
        if place is not None and cells.count(cells[place]) > 1:
            raise UserError(f"{where}: two columns are called {cells[place]!r}: rename one")
    note = f"columns: path {cells[path]!r}, " + ("no labels" if label is None else f"label {cells[label]!r}")
    note += f"; not read: {', '.join(map(ascii, unread))} ({CHOOSE} takes others)" if unread else ""
    return Columns(path=path, label=label, width=len(cells), header=True, note=note)


def _wanted(columns: str | None) -> dict[str, str]:
    """Read `path=NAME,label=NAME`.  Raises UsageError for anything else."""
    pairs = [part.partition("=") for part in columns.split(",")] if columns is not None else []
    wanted = {role.strip(): name.strip() for role, _, name in pairs}
    if not all(equals and role.strip() in NAMES for role, equals, _ in pairs) or len(wanted) < len(pairs):
        raise UsageError(f"--columns is {columns!r}: give path=NAME,label=NAME, names of the list's header")
    if wanted.get("path") == "":
        raise UsageError("--columns path=: give the name of the column with the paths")
    return wanted


def _plain(cell: str) -> str:
    return re.sub(r"[^a-z0-9]", "", cell.lower())
