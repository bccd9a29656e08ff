"""Is a split still what its manifest says?  Every byte is looked at, and every problem named.

Opening a split compares sizes and times, which takes no time; this hashes every tar, walks its headers and
compares its index with what they say, and if asked to decodes every image.  A tar of a store is brought to
this machine once, in large requests, and is gone when it has been looked at.  Shape suffix: N bytes.
"""

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from turbomim.pipeline.decoding.decode import decode_stored
from turbomim.pipeline.making.index_tars import Progress
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.places.retries import impatient
from turbomim.pipeline.system.errors import UserError, at_least_one
from turbomim.pipeline.system.executors import local_processes, on_threads, run_jobs
from turbomim.pipeline.system.remedies import PlaceError, explain
from turbomim.pipeline.tars.index import Members, index_lines, index_text
from turbomim.pipeline.tars.manifest import MANIFEST, SUMS, Manifest, Shard, index_name, load_manifest
from turbomim.pipeline.tars.open_tar import BadTar, OpenTar, open_tar, open_whole_tar
from turbomim.pipeline.tars.samples import read_samples_of
from turbomim.pipeline.tars.split import parse_index_of
from turbomim.pipeline.tars.store import Kind, Store
from turbomim.pipeline.tars.stored_image import StoredImage, stored_images

# tars of a store at a time, at least: each is waited for, and takes its size on the disk and 80 MB of memory
STORE_TARS = 4
# seconds in which a store answers that is not down
ANSWER = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong. file: its name; member, offset: of an image, its name and first byte."""

    file: str
    member: str | None = None
    offset: int | None = None
    reason: str

    def __str__(self) -> str:
        where = self.file if self.member is None else f"{self.file}:{self.member}:{self.offset}"
        return f"{repr(where)[1:-1]} {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What `verify_split` looked at and found. images: decoded, whole ones and others."""

    manifest: Manifest
    images: int
    problems: tuple[Problem, ...]

    @property
    def unhashed(self) -> int:
        """Shards whose bytes nobody hashed, so that there is nothing to compare them with."""
        return sum(not shard.sha256 for shard in self.manifest.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCheck:
    """All that checking one shard needs. place, tars: of index and tar; images: decode them too.

    status: what a store says of the tar, None in a folder.
    """

    number: int
    place: str
    tars: str
    status: Status | OSError | None
    shard: Shard
    foreign: bool
    members: Members
    store: Kind
    images: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFound:
    """What checking one shard gave. images: decoded; index_sha256: of its index file, "" if none was read."""

    number: int
    problems: tuple[Problem, ...]
    images: int
    index_sha256: str


def verify_split(
    path: str | os.PathLike[str],
    *,
    images: bool = False,
    workers: int = 1,
    progress: Progress = lambda *_: None,
) -> VerifyReport:
    """Check a split against its manifest, to the end, whatever is found.

    images: decode every image as strictly as possible too.  workers: shards at a time, on threads, with
    images on processes; of a store a few at least.  Raises UserError if there is no manifest to check
    against, if a store is down, or if the temporary folder has no room for its tars under way.
    """
    _opened.cache_clear()
    place = _opened(os.fspath(path))
    manifest = load_manifest(place)
    tars = place if manifest.tars is None else _opened(manifest.tars)
    at_least_one("--workers", workers)
    names = [shard.name for shard in manifest.shards]
    statuses: list[Status | OSError | None] = [None] * len(names)
    if tars.folder is None:
        # where it cannot be made, none of the tars is at fault
        tempfile.gettempdir()
        workers = workers if images else max(workers, STORE_TARS)
        try:
            statuses = [*tars.statuses(names)]
        except OSError as error:
            raise UserError(f"cannot list {str(tars)!r}: {explain(error, 'check the store')}") from error
    checks = [
        ShardCheck(
            number=number,
            place=str(place),
            tars=str(tars),
            status=status,
            shard=shard,
            foreign=manifest.foreign,
            members=Members.of(manifest.made),
            store=Store.of(manifest.made).kind,
            images=images,
        )
        for number, (shard, status) in enumerate(zip(manifest.shards, statuses, strict=True))
    ]
    found: dict[int, ShardFound] = {}
    # hashing runs without the interpreter's lock; decoding must catch what a process prints
    with local_processes(workers) if images else ThreadPoolExecutor(workers) as executor:
        for one in run_jobs(verify_shard, checks, executor):
            found[one.number] = one
            shard = manifest.shards[one.number]
            progress(shard.bytes, shard.samples, manifest.bytes)
    shards = [found[number] for number in sorted(found)]
    indexes = {index_name(names[one.number]): one.index_sha256 for one in shards if one.index_sha256}
    problems = [*_verify_listings(place, manifest, indexes), *_strays({place, tars}, manifest)]
    problems += [problem for one in shards for problem in one.problems]
    return VerifyReport(manifest=manifest, images=sum(one.images for one in shards), problems=tuple(problems))


@lru_cache(maxsize=2)
def _opened(where: str) -> Place:
    """Open a place once a process: a client of a store keeps its connections."""
    return open_place(where)


def verify_shard(check: ShardCheck) -> ShardFound:
    """Check one shard and its index.  Raises UserError where not the shard is at fault."""
    wrong = partial(Problem, file=check.shard.name)
    problems: list[Problem] = []
    entries: list[StoredImage] = []
    digest = ""
    try:
        with _open(check) as tar:
            problems += _compare_bytes(tar, check.shard)
            lines, digest, found = _compare_index(check, tar)
            problems += found
            if check.images:
                entries = stored_images(lines, check.members.image)
                problems += _decode_images(tar, check, entries)
    except OSError as error:
        problems.append(wrong(reason=_unread(error, _opened(check.tars))))
    # BadTar, or a line of the index
    except ValueError as error:
        problems.append(wrong(reason=str(error)))
    return ShardFound(number=check.number, problems=tuple(problems), images=len(entries), index_sha256=digest)


def _open(check: ShardCheck) -> AbstractContextManager[OpenTar]:
    """Open a shard's tar; one of a store is brought here.  Raises OSError, BadTar."""
    tars, name = _opened(check.tars), check.shard.name
    if isinstance(check.status, OSError):
        raise check.status
    return open_tar(tars, name) if check.status is None else open_whole_tar(tars, name, check.status)


def _compare_bytes(tar: OpenTar, shard: Shard) -> list[Problem]:
    """Compare size and sha256 with the manifest."""
    size = tar.size
    if size != shard.bytes:
        how = "shorter" if size < shard.bytes else "longer"
        return [
            Problem(file=shard.name, reason=f"is {how} than written: {size:,} bytes, not {shard.bytes:,}")
        ]
    if shard.sha256 and tar.sha256() != shard.sha256:
        return [Problem(file=shard.name, reason="has changed: its sha256 is not the manifest's")]
    return []


def _compare_index(check: ShardCheck, tar: OpenTar) -> tuple[list[str], str, list[Problem]]:
    """Compare headers, index and count.

    Returns the index's lines, of the headers or else of the file, the file's sha256, and the problems.
    """
    problems: list[Problem] = []
    shard, members = check.shard, check.members
    walked: list[str] | None = None
    try:
        walked = read_samples_of(tar, members).lines
        if len(walked) != shard.samples:
            reason = f"holds {len(walked):,} samples, the manifest says {shard.samples:,}"
            problems.append(Problem(file=shard.name, reason=reason))
    except BadTar as error:
        problems.append(Problem(file=shard.name, reason=f"is damaged, {error}"))
    name = index_name(shard.name)
    wrong = partial(Problem, file=name)
    place, digest = _opened(check.place), ""
    try:
        text = place.read(name)
        digest = hashlib.sha256(text).hexdigest()
        parse_index_of(shard, text, members, foreign=check.foreign)
    except OSError as error:
        return walked or [], digest, [*problems, wrong(reason=_unread(error, place))]
    except ValueError as error:
        return walked or [], digest, [*problems, wrong(reason=f"does not fit its tar: {error}")]
    lines = index_lines(text)
    if walked is not None and text != index_text(walked):
        pairs = enumerate(zip(lines, walked, strict=False), 2)
        line = next((number for number, (said, true) in pairs if said != true), len(walked) + 2)
        problems.append(
            wrong(reason=f"does not fit its tar: line {line:,} is not what the tar's headers say")
        )
    return lines if walked is None else walked, digest, problems


def _decode_images(tar: OpenTar, check: ShardCheck, images: list[StoredImage]) -> list[Problem]:
    """Decode images of an open tar, and name those that are not whole.  Raises OSError.

    The loader's own decoder looks at each, and what libjpeg only warns of counts: of JPEGs with some changed
    bytes it paints over most and refuses few.  Pillow refuses none that this does not.  A change that decodes
    without a word, in a WebP or in raw pixels nearly every one, shows only in the sha256 of the tar.
    """
    problems: list[Problem] = []
    for image in images:
        content_N = np.frombuffer(tar.read_at(image.size, image.offset), np.uint8)
        if len(content_N) == image.size:
            decoded = decode_stored(content_N, check.store, strict=True)
        else:
            decoded = f"its tar ends after {len(content_N):,} of {image.size:,} bytes"
        if isinstance(decoded, str):
            reason = f"is not whole: {decoded}"
            problems.append(
                Problem(file=check.shard.name, member=image.name, offset=image.offset, reason=reason)
            )
    return problems


def _verify_listings(place: Place, manifest: Manifest, indexes: dict[str, str]) -> list[Problem]:
    """Compare SHA256SUMS with the manifest, and the small files with SHA256SUMS.

    indexes: sha256 of the index files that were read.
    """
    try:
        lines = place.read(SUMS).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(file=SUMS, reason=_unread(error, place))]
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    expected = {shard.name: shard.sha256 for shard in manifest.shards if shard.sha256}
    required = [MANIFEST, *(index_name(shard.name) for shard in manifest.shards)]
    problems = []
    # a name in the file must not lead out of the folder
    others = (name for name in sums if "/" not in name and name not in expected)
    wanted = list(dict.fromkeys([*required, *others]))

    def digest_of(name: str) -> str | OSError | ValueError:
        try:
            return indexes.get(name) or hashlib.sha256(place.read(name)).hexdigest()
        except (OSError, ValueError) as error:
            return error

    for name, digest in zip(wanted, on_threads(digest_of, wanted), strict=True):
        if isinstance(digest, str):
            expected[name] = digest
        elif isinstance(digest, ValueError):
            problems.append(Problem(file=SUMS, reason="is damaged: it lists a name with a zero byte"))
        # a missing index is named with its shard
        elif name not in required:
            problems.append(Problem(file=name, reason=_unread(digest, place)))
    for name, digest in expected.items():
        if sums.get(name) != digest:
            how = f"is not the file that {SUMS} lists" if name in sums else f"is not in {SUMS}"
            problems.append(Problem(file=name, reason=how))
    return problems


def _strays(places: set[Place], manifest: Manifest) -> list[Problem]:
    """Name the tars and index files that the manifest does not know."""
    known = {shard.name.removesuffix(".tar") for shard in manifest.shards}
    return [
        Problem(file=name, reason=f"is not in {MANIFEST}: a stray file, or the manifest of other shards")
        for name in sorted(set[str]().union(*map(_names, places)))
        if name.endswith((".tar", ".idx")) and not name.startswith(".") and name[:-4] not in known
    ]


def _names(place: Place) -> list[str]:
    """List the files of a place, without those of its folders; none where it lists none."""
    if place.folder is not None:
        return os.listdir(place.folder)
    try:
        return list(place.files_here())
    except OSError:
        return []


def _unread(error: OSError | UnicodeDecodeError, place: Place) -> str:
    """Why a file was not read.  Raises UserError where its place is down: that is no fault of the file."""
    if isinstance(error, PlaceError) and error.passing and not _answers(place):
        raise UserError(f"cannot read {str(place)!r}: {explain(error, 'check the store')}") from error
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8: {error}"
    return f"cannot be read: {explain(error, 'check the disk')}"


def _answers(place: Place) -> bool:
    """Whether a store answers at all."""
    try:
        with impatient(ANSWER):
            return bool(place.status(MANIFEST))
    except OSError:
        return False
