"""The manifest of a split: what must be there, read, written, and held against the shards.

The shards are those of `turbomim shard make`, or foreign ones that `turbomim shard index` has listed.  Tar
readers end early without a word when a shard is damaged, so nothing is read before the manifest has agreed.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.executors import on_threads
from turbomim.pipeline.system.remedies import PlaceError, explain, reason
from turbomim.pipeline.system.sha256 import file_sha256
from turbomim.pipeline.tars.index import Members
from turbomim.pipeline.tars.tar import BLOCK

FORMAT = "turbomim-split-1"
MANIFEST = "manifest.json"
BAD = "bad.jsonl"
SUMS = "SHA256SUMS"
# what `shard make` has not finished
MAKING = ".making"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*-\d{6,}\.tar")
# a file name without control characters; surrogates only as Python writes bytes that are no UTF-8
FOREIGN_NAME = re.compile(r"(?!\.)[^/\x00-\x1f\x7f-\x9f\ud800-\udc7f\udd00-\udfff]+\.tar")
REMEDY = "restore the file, or remake the split with `turbomim shard make` (foreign: `turbomim shard index`)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One tar file. name: its file name; sha256: hex, over the whole file.

    sha256 is "" where nobody read the whole file; then index_sha256, of its index, tells it from others.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """What the manifest records."""
        tree = asdict(self)
        if self.sha256:
            del tree["index_sha256"]
        return tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a split holds. classes: by label; made: how, free-form JSON; fingerprint:
    `fingerprint_of(shards)`."""

    name: str
    split: str
    shards: tuple[Shard, ...]
    classes: tuple[str, ...]
    fingerprint: str
    made: dict[str, Any]

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Number of bytes of all tar files."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def foreign(self) -> bool:
        """Whether the tar files were only indexed, not made, by turbomim."""
        return "indexed" in self.made

    @property
    def tars(self) -> str | None:
        """The place that has the tar files, where it is not that of the manifest: a URL."""
        where: str | None = self.made.get("tars")
        return where

    @property
    def labelled(self) -> bool:
        """Whether labels tell samples apart: not those of one class; foreign ones may have no names."""
        if self.foreign and not self.classes:
            return Members.of(self.made).label is not None
        return len(self.classes) > 1

    def to_json(self) -> str:
        """Write the manifest as JSON text: the same text for the same manifest."""
        head = {"format": FORMAT, "name": self.name, "split": self.split, "samples": self.samples}
        tail = {
            "made": self.made,
            "classes": self.classes,
            "shards": [shard.to_json() for shard in self.shards],
        }
        return json.dumps({**head, "fingerprint": self.fingerprint, **tail}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read `to_json`'s text.  Raises ValueError that names what is wrong in it."""
        tree = json.loads(text)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            found = tree.get("format") if isinstance(tree, dict) else None
            raise ValueError(f"format is {found!r}, not {FORMAT!r}")
        try:
            shards = tuple(
                Shard(
                    name=str(s["name"]),
                    samples=int(s["samples"]),
                    bytes=int(s["bytes"]),
                    sha256=str(s["sha256"]),
                    index_sha256=str(s.get("index_sha256", "")),
                )
                for s in tree["shards"]
            )
            manifest = cls(
                name=str(tree["name"]),
                split=str(tree["split"]),
                shards=shards,
                classes=tuple(str(name) for name in tree["classes"]),
                fingerprint=str(tree["fingerprint"]),
                made=dict(tree["made"]),
            )
        except KeyError as error:
            raise ValueError(f"{error.args[0]!r} is missing") from error
        except (TypeError, OverflowError) as error:
            raise ValueError(f"a field has the wrong type ({error})") from error
        Members.of(manifest.made)
        if not isinstance(manifest.tars, str | None):
            raise ValueError(f"tars is {manifest.tars!r}, not the URL of a place")
        pattern = FOREIGN_NAME if manifest.foreign else SHARD_NAME
        for shard in shards:
            # the name is joined to a folder: a path in it could lead anywhere
            if not pattern.fullmatch(shard.name):
                form = "a file's name with .tar" if manifest.foreign else "NAME-SPLIT-000000.tar"
                raise ValueError(f"{shard.name!r} is not a shard name ({form})")
            if not 0 <= shard.samples <= shard.bytes // BLOCK:
                raise ValueError(f"{shard.samples:,} samples do not fit in {shard.name!r}")
            if not shard.sha256 and not (manifest.foreign and shard.index_sha256):
                raise ValueError(f"{shard.name!r} has no sha256")
        if fingerprint_of(shards) != manifest.fingerprint:
            raise ValueError("the fingerprint does not belong to the shards listed (edited by hand?)")
        return manifest


def load_manifest(place: Place) -> Manifest:
    """Read a split's manifest.json.  Raises UserError if it is missing or not one of ours."""
    where = place.at(MANIFEST)
    try:
        return Manifest.from_json(place.read(MANIFEST).decode())
    except FileNotFoundError as error:
        if isinstance(error, PlaceError) and error.helps:
            raise UserError(f"cannot read {where!r}: {explain(error, '')}") from error
        if _is_unfinished(place):
            raise UserError(
                f"{str(place)!r} holds shards that are not finished: run the same `turbomim shard make` "
                "again, it goes on where it was stopped"
            ) from error
        others = place.folder.glob(f"*/{MANIFEST}") if place.folder else ()
        below = sorted(other.parent.name for other in others)
        hint = f" (did you mean its sub-folder {below[0]!r}?)" if below else ""
        raise UserError(
            f"no {MANIFEST} in {str(place)!r}{hint}: give the {_kind(place)} that `turbomim shard make` or "
            "`turbomim shard index` wrote"
        ) from error
    except OSError as error:
        helps = f"give the {_kind(place)} of a split"
        raise UserError(f"cannot read {where!r}: {explain(error, helps)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where!r} is not a manifest of shards: {error}; {REMEDY}") from error


def _kind(place: Place) -> str:
    """What a place is called where another one is to be given."""
    return "folder" if place.folder else "URL"


def _is_unfinished(place: Place) -> bool:
    try:
        return bool(place.files(MAKING))
    except OSError:
        return False


def check_shards(place: Place, manifest: Manifest, *, hashing: bool = True) -> tuple[str, ...]:
    """Compare every shard with the manifest: presence, size, and sha256 if it is newer than the manifest.

    hashing: whether sha256 is compared at all; it never is in a store of objects, where each byte would come
    over the network.  Returns each shard's version, by which a later read can tell that it is another.
    """
    folder = place.folder if hashing else None
    manifest_ns = (folder / MANIFEST).stat().st_mtime_ns if folder else 0

    def check(checked: tuple[Shard, Status | OSError]) -> str:
        """Say what is wrong with a shard; "" for nothing."""
        shard, status = checked
        if isinstance(status, OSError):
            return absence(status)
        if status.bytes != shard.bytes:
            how = "shorter" if status.bytes < shard.bytes else "longer"
            return f"is {how} than the manifest says: {status.bytes:,} bytes, not {shard.bytes:,}"
        hashed = folder is not None and shard.sha256 != "" and status.changed_ns > manifest_ns
        if folder and hashed and file_sha256(folder / shard.name) != shard.sha256:
            return "was changed after the manifest was written: its sha256 is another"
        return ""

    try:
        statuses = place.statuses([shard.name for shard in manifest.shards])
    except OSError as error:
        raise UserError(f"cannot list {str(place)!r}: {explain(error, REMEDY)}") from error
    outcomes = on_threads(check, [*zip(manifest.shards, statuses, strict=True)])
    problems = [(shard, text) for shard, text in zip(manifest.shards, outcomes, strict=True) if text]
    if problems:
        shard, text = problems[0]
        count = (
            f"; {len(problems)} of {len(manifest.shards)} shards are not as written" if problems[1:] else ""
        )
        raise UserError(f"shard {place.at(shard.name)!r} {text}{count}; {REMEDY}")
    found = [status for status in statuses if isinstance(status, Status)]
    newest_ns = max(status.changed_ns for status in found)
    if folder and newest_ns > manifest_ns:
        _mark_checked(folder / MANIFEST, newest_ns)
    return tuple(status.version for status in found)


def index_name(tar: str) -> str:
    """Give the name of a tar's index file."""
    return f"{tar.removesuffix('.tar')}.idx"


def fingerprint_of(shards: Iterable[Shard]) -> str:
    """Identify a split's samples and their order: sha256 over the line `SAMPLES SHA256` of each shard.

    A shard that nobody hashed has `index` and the sha256 of its index there.
    """
    lines = "".join(f"{s.samples} {s.sha256 or f'index {s.index_sha256}'}\n" for s in shards)
    return hashlib.sha256(lines.encode()).hexdigest()


def absence(error: OSError) -> str:
    """How a file that is needed cannot be had, for a sentence that names it."""
    return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {reason(error)}"


def _mark_checked(manifest_path: Path, newest_ns: int) -> None:
    """Date the manifest after the shards just hashed: a copied split is hashed once, not at every start."""
    try:
        os.utime(manifest_path, ns=(newest_ns, newest_ns))
    except OSError:
        # a read-only split is hashed at every start instead
        return
