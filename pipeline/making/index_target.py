"""Where the index of foreign tars is written: beside them, or into a folder of its own."""

import os
from pathlib import Path

from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.opening import check_local, is_writable
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.durable import make_folder
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import explain


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
