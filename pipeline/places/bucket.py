"""A place in a store of objects: S3, Google's, Azure's, or files of an HTTP server; by obstore."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Self, TypeVar

from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.places.refusals import changed, explain_refusal, is_beyond, is_of_client
from turbomim.pipeline.places.retries import TRAFFIC, persistently
from turbomim.pipeline.places.stores import check_process, make_store
from turbomim.pipeline.system.remedies import Changed, Exists, NoSuchObject, PlaceError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

T = TypeVar("T")

# bytes a request of a file that is read or written whole
PART = 8 * 2**20
PARTS_AT_ONCE = 4
# objects a page of a listing
PAGE = 1000
# begins the version of a file whose server gives none: it is the time of its last change, ns
DATED = "changed "
# versions that no server compares; weak ETags are never equal (RFC 9110, 8.8.3.2)
UNASKED = ("W/", DATED)


class Bucket(Place):
    """Objects below a URL.

    headers: sent with each request, and never shown; shown: what it is called, if not by that URL.
    Every request that fails in passing is made again (retries.py).
    """

    def __init__(
        self, url: str, *, headers: Callable[[], dict[str, str]] = dict, shown: str | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._where = shown or self._url
        self._of_http = self._url.startswith("http")
        self._headers = headers
        self._store = make_store(self._url, headers())
        self._lock = Lock()
        self._answered = False

    def __str__(self) -> str:
        return self._where

    def at(self, name: str) -> str:
        """Give the URL of a file."""
        return f"{self._where}/{name}"

    def below(self, name: str) -> Self:
        """Give the place that a folder in it is."""
        return type(self)(f"{self._url}/{name}", headers=self._headers, shown=self.at(name))

    def status(self, name: str) -> Status:
        """Ask for the size and the ETag of an object."""
        import obstore

        found = self._ask(name, "size", lambda store: obstore.head(store, name))
        return _status_of(found, dated=self._of_http)

    def statuses(self, names: Iterable[str]) -> list[Status | OSError]:
        """Ask for many objects at once: by a listing, where the store has them, else one by one."""
        names = list(names)
        if self._of_http:
            return super().statuses(names)
        found = self.files() if any("/" in name for name in names) else self.files_here()
        return [found.get(name) or NoSuchObject("there is no such object") for name in names]

    def files(self, below: str = "") -> dict[str, Status]:
        """List the objects in it, by name."""
        import obstore

        self._check_listable()

        def pages(store: "ObjectStore") -> list["ObjectMeta"]:
            return [item for page in obstore.list(store, below or None, chunk_size=PAGE) for item in page]

        listed = self._ask(below, "listing", pages)
        return dict(sorted((item["path"], _status_of(item)) for item in listed))

    def files_here(self) -> dict[str, Status]:
        """List the objects in it: those of its folders, such as runs beside shards, would cost pages."""
        import obstore

        self._check_listable()
        listed = self._ask("", "listing", obstore.list_with_delimiter)["objects"]
        return dict(sorted((item["path"], _status_of(item)) for item in listed))

    def read(self, name: str) -> bytes:
        """Read a whole object, in one request."""
        import obstore
        from obstore.exceptions import GenericError, NotSupportedError

        # the answer to a range says how long the whole is, beside how much comes
        whole: Any = {"range": {"offset": 0}}

        def get(store: "ObjectStore") -> bytes:
            try:
                result = obstore.get(store, name, options=whole)
            except NotSupportedError:
                result = obstore.get(store, name)
            except GenericError as error:
                if is_beyond(error):
                    return b""
                raise
            content = result.bytes().to_bytes()
            if len(content) != result.meta["size"]:
                raise _short(len(content), result.meta["size"])
            return content

        content = self._ask(name, "all of it", get)
        TRAFFIC.answered(len(content))
        return content

    def read_into(
        self,
        name: str,
        buffer: memoryview,
        offset: int,
        *,
        version: str = "",
        halt: Event | None = None,
    ) -> int:
        """Fill `buffer` from an object in one request."""
        import obstore

        wanted = len(buffer)
        options: dict[str, Any] = {"range": (offset, offset + wanted)}
        if version and not version.startswith(UNASKED):
            options["if_match"] = f'"{version}"'

        def get(store: "ObjectStore") -> int:
            result = obstore.get(store, name, options=options)  # type: ignore[arg-type]
            found = _status_of(result.meta, dated=self._of_http)
            if version and found.version and found.version != version:
                raise changed(self.at(name))
            content = result.bytes()
            expected = max(0, min(wanted, found.bytes - offset))
            if len(content) != expected:
                raise _short(len(content), expected)
            buffer[:expected] = memoryview(content)
            return expected

        what = f"bytes {offset} to {offset + wanted - 1}"
        size = self._ask(name, what, get, halt=halt) if wanted else 0
        TRAFFIC.answered(size)
        return size

    def put(self, name: str, content: bytes | Path, *, if_absent: bool = False, version: str = "") -> str:
        """Write a whole object, in parts if it is large; with a condition, in one request."""
        import obstore

        self._check_writable()
        mode: Any = "create" if if_absent else self._only(name, version) if version else "overwrite"
        conditional = mode != "overwrite"
        if conditional and isinstance(content, Path):
            content = content.read_bytes()
        attempts = 0

        def write(store: "ObjectStore") -> str:
            nonlocal attempts
            attempts += 1
            result = obstore.put(
                store,
                name,
                content,
                mode=mode,
                use_multipart=False if conditional else None,
                chunk_size=PART,
                max_concurrency=PARTS_AT_ONCE,
            )
            return _version_of(result["e_tag"])

        try:
            return self._ask(name, "written", write)
        except (Changed, Exists) as error:
            # an attempt before may have written it, and its answer was lost
            if attempts > 1 and self.read(name) == content:
                return self.status(name).version
            raise Exists(str(error)) from error

    def copy(self, name: str, to: str) -> None:
        """Copy an object within the store, without its bytes coming here."""
        import obstore

        self._check_writable()
        self._ask(name, "copied", lambda store: obstore.copy(store, name, to))

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        import obstore

        self._check_writable()
        try:
            self._ask(name, "removed", lambda store: obstore.delete(store, name))
        except FileNotFoundError:
            return

    def _only(self, name: str, version: str) -> dict[str, str]:
        """The condition that an object still is of a version.  Raises Exists if it is not."""
        import obstore

        condition = {"e_tag": f'"{version}"'}
        if self._url.startswith("gs:"):
            # Google's store compares generations, and a listing has none
            found = self._ask(name, "version", lambda store: obstore.head(store, name))
            if _version_of(found["e_tag"]) != version:
                raise Exists(f"{self.at(name)} was changed since it was opened")
            condition["version"] = found["version"] or ""
        return condition

    def _check_listable(self) -> None:
        if self._of_http:
            raise PlaceError("a server of files does not list them", "give a folder, or a store of objects")

    def _check_writable(self) -> None:
        if self._of_http:
            raise PlaceError("a server of files is only read", "give a folder, or a store of objects")

    def _ask(
        self,
        name: str,
        what: str,
        request: Callable[["ObjectStore"], T],
        *,
        halt: Event | None = None,
    ) -> T:
        """Make a request, again where it fails in passing.  what: of the object, for people."""

        check_process()

        def once() -> T:
            store = self._store
            try:
                return request(store)
            except PlaceError:
                raise
            except BaseException as error:
                if not is_of_client(error):
                    raise
                refusal = explain_refusal(error, self.at(name))
                if "expired" in str(refusal):
                    self._renew(store)
                raise refusal from error

        answer = persistently(once, f"{self.at(name)} ({what})", answered=self._answered, halt=halt)
        self._answered = True
        return answer

    def _renew(self, old: "ObjectStore") -> None:
        """Make the client anew: what gives credentials may have others now."""
        with self._lock:
            if self._store is old:
                self._store = make_store(self._url, self._headers())


def _status_of(item: "ObjectMeta", *, dated: bool = False) -> Status:
    """Size, ETag and time of an object.  dated: without an ETag, its time is its version."""
    changed_ns = int(item["last_modified"].timestamp() * 1e9)
    version = _version_of(item["e_tag"]) or (f"{DATED}{changed_ns}" if dated and changed_ns > 0 else "")
    return Status(bytes=item["size"], version=version, changed_ns=changed_ns)


def _version_of(etag: str | None) -> str:
    """An ETag without its quotes: listings and answers of some stores differ in them."""
    return re.sub(r'^"(.*)"$', r"\1", etag or "")


def _short(size: int, expected: int) -> PlaceError:
    said = f"an answer of another length came ({size:,} of {expected:,} bytes)"
    return PlaceError(said, "the store or the network fails", passing=True)
