"""From what a user calls a place to the place."""

import os
import re
from pathlib import Path

from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.places.stores import SCHEMES, WRITABLE, check_url
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.system.remedies import PlaceError, explain

# of the Hugging Face Hub
HUB = "hf"
# what begins as a URL does, or was meant to: s3://, s3:/, s3:, s3//, S3://
URL = re.compile(rf"({'|'.join((*SCHEMES, HUB))})(?::/*|//+)(.*)", re.IGNORECASE | re.DOTALL)


def meant_url(where: str | os.PathLike[str]) -> str | None:
    """The URL that was meant, also where a colon or a slash is missing, or a Path was made of it.

    None for a path; a folder whose name begins so is given as ./s3:x.
    """
    where = os.fspath(where)
    if found := URL.fullmatch(where):
        return f"{found[1].lower()}://{found[2]}"
    return where if "://" in where else None


def _shown(url: str) -> str:
    """A URL without what may be a secret: user, password, query."""
    return re.sub(r"(?<=//)[^/]*@|[?#].*", "", url, flags=re.DOTALL)


def check_local(name: str, where: str | os.PathLike[str]) -> None:
    """Raise UsageError for a URL where a path of this machine is needed.  name: of the flag."""
    if url := meant_url(where):
        raise UsageError(
            f"{name} {_shown(url)}: must be a path of this machine: only splits, photographs and "
            "--run.mirror may be in a store"
        )


def is_remote(where: str | os.PathLike[str]) -> bool:
    """Whether it is a URL, not a path.  Raises UserError for what was meant to be one: s3:/bucket/x."""
    where, url = os.fspath(where), meant_url(where)
    if url and not where.startswith(url.partition("://")[0] + "://"):
        raise UserError(f"a URL has :// after its scheme: did you mean {_shown(url)!r}?")
    return url is not None


def is_writable(place: Place) -> bool:
    """Whether files can be put there at all; what a web server or the Hub has is only read."""
    return place.folder is not None or str(place).partition(":")[0] in WRITABLE


def open_place(where: str | os.PathLike[str]) -> Place:
    """Open a folder, or a place of an object store by its URL; nothing is asked of it yet.

    Raises UserError for a URL that is none of these, and where credentials cannot be read.
    """
    where = os.fspath(where)
    if not is_remote(where):
        return Folder(Path(where))
    scheme = where.partition(":")[0]
    if scheme not in (*SCHEMES, HUB):
        known = ", ".join(f"{name}://" for name in (*SCHEMES, HUB))
        raise UserError(f"{_shown(where)!r}: {scheme}:// is not known; give a folder, or one of {known}")
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
