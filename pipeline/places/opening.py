"""From what a user calls a place to the place."""

import os
from pathlib import Path

from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.places.stores import SCHEMES, check_url
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError, explain

# of the Hugging Face Hub
HUB = "hf"


def is_remote(where: str | os.PathLike[str]) -> bool:
    """Whether it is a URL, not a path.  Raises UserError for a URL of which a path was made: s3:/bucket."""
    where = os.fspath(where)
    scheme, colon, rest = where.partition(":/")
    if colon and scheme in (*SCHEMES, HUB) and not rest.startswith("/"):
        raise UserError(f"{where!r} has one slash after {scheme}:, not two: give {scheme}://{rest}")
    return "://" in where


def open_place(where: str | os.PathLike[str]) -> Place:
    """Open a folder, or a place of an object store by its URL; nothing is asked of it yet.

    Raises UserError for a URL that is none of these, and where credentials cannot be read.
    """
    where = os.fspath(where)
    if not is_remote(where):
        return Folder(Path(where))
    scheme = where.partition(":")[0].lower()
    if scheme not in (*SCHEMES, HUB):
        known = ", ".join(f"{name}://" for name in (*SCHEMES, HUB))
        raise UserError(f"{where!r}: {scheme}:// is not known; give a folder, or one of {known}")
    check_url(where)
    # the libraries are imported where they are needed alone
    try:
        if scheme == HUB:
            from turbomim.pipeline.places.hub import Hub

            return Hub(where)
        from turbomim.pipeline.places.bucket import Bucket

        return Bucket(where)
    except PlaceError as error:
        raise UserError(f"cannot open {where!r}: {explain(error, 'check the URL')}") from error
