"""Lists of labels that lie beside images and are not read: what people should know of them."""

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from turbomim.pipeline.making.list_rows import CHOOSE, IMAGE, Row, read_rows
from turbomim.pipeline.making.photographs import MOST_LISTS, Photographs
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.words import counted

# rows that tell where a list's paths start, and how it calls images
LOOKED_AT: Final = 100
# bytes a list may have to be looked at, and one more share for each image; files beside a folder
LONGEST, OF_AN_IMAGE, MOST_BESIDE = 2**22, 200, 10_000


def unread_lists(source: Path, found: Photographs) -> list[str]:
    """Say of each list in a folder, or beside one without classes, that it was not read and what it names.

    found: the images of the folder.  What names none of them is passed over without a word, unless its rows
    look like those of a list.  So is a file that is too long for a list of these images.
    """
    inside = [source / path for path in found.lists]
    return [hint for path in (*inside, *_beside(source, found)) if (hint := _unread(path, source, found))]


def _beside(source: Path, found: Photographs) -> list[Path]:
    """Tables that lie beside a folder of images without labels, as data sets are often given away."""
    if found.classes or source.name in ("", ".."):
        return []
    try:
        files = list(islice(source.parent.iterdir(), MOST_BESIDE))
    except OSError:
        return []
    return sorted(path for path in files if path.suffix.lower() in (".csv", ".tsv"))[:MOST_LISTS]


def _unread(path: Path, source: Path, found: Photographs) -> str:
    """The hint of one file; "" for what is no list of these images."""
    # a named pipe would be waited for, and a table of something else may have gigabytes
    if not path.is_file() or path.stat().st_size > LONGEST + OF_AN_IMAGE * len(found.images):
        return ""
    rows, clear = _rows_of(path)
    named = [os.path.normpath(name) for _, name, _ in rows]
    root, count = _root_of(named, path, source, found)
    choose = "" if clear else f"; which column is the label is not clear, so give {CHOOSE} too"
    before = f"{str(path)!r} was not read: "
    if not count:
        if short := _without_ending(named, found):
            name, image = short
            return (
                f"{before}it names images without their endings, as {name!r} for {image!r}. To take its "
                f"labels, write the endings, and give it in place of the folder{choose}"
            )
        other = next((name for name in named[:LOOKED_AT] if IMAGE.fullmatch(name)), "")
        if other and path.is_relative_to(source):
            return f"{before}none of the images that it names is here, as {other!r}"
        return ""
    before += f"it names {count:,} of {counted(len(found.images), 'image')}"
    start = "" if root == path.parent else f" with --root {str(root)!r}"
    if clear and not any(label for _, _, label in rows):
        return f"{before}, without labels. To take these images alone, give it in place of the folder{start}"
    folders = "; labels are the folders' names" if found.classes else ""
    return (
        f"{before}, with labels{folders}. To take its labels, give it in place of the folder{start}{choose}"
    )


def _rows_of(path: Path) -> tuple[list[Row], bool]:
    """The rows of what may be a list, none if it is none, and whether its columns are clear."""
    for columns in (None, "label="):
        with suppress(UserError):
            return read_rows(path, columns)[0], columns is None
    return [], True


def _root_of(named: list[str], path: Path, source: Path, found: Photographs) -> tuple[Path, int]:
    """The folder that a list's paths start from, and how many images they name then."""
    top, images = os.path.abspath(source), {image.path for image in found.images}
    by_name = {os.path.basename(image): image for image in images}
    roots = [path.parent, source]
    for name in named[:LOOKED_AT]:
        image = by_name.get(os.path.basename(name), "")
        if image.endswith(f"/{name}"):
            roots.append(source / image.removesuffix(f"/{name}"))
            break

    def count(root: Path) -> int:
        start, above = os.path.abspath(root), os.path.join(top, "")
        return len({os.path.normpath(os.path.join(start, n)).removeprefix(above) for n in named} & images)

    counts = [count(root) for root in roots]
    return roots[counts.index(max(counts))], max(counts)


def _without_ending(named: list[str], found: Photographs) -> tuple[str, str] | None:
    """A name and the image that it means, where a list names images without the endings of their files."""
    whole = {os.path.splitext(os.path.basename(image.path))[0]: image.path for image in found.images}
    pairs = ((name, whole.get(os.path.basename(name))) for name in named[:LOOKED_AT])
    return next(((name, image) for name, image in pairs if image), None)
