"""Is a split still what its manifest says?  Every byte is looked at, and every problem named.

Opening a split compares sizes and times, which takes no time; this hashes every tar, walks its headers and
compares its index with what they say, and if asked to decodes every image.  Shape suffix: N bytes.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from turbomim.pipeline.decoding.decode import decode_stored
from turbomim.pipeline.making.index_tars import Progress
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place
from turbomim.pipeline.system.errors import at_least_one
from turbomim.pipeline.system.executors import local_processes, run_jobs
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.index import Members, index_lines, index_text
from turbomim.pipeline.tars.manifest import MANIFEST, SUMS, Manifest, Shard, index_name, load_manifest
from turbomim.pipeline.tars.open_tar import BadTar, OpenTar, open_tar
from turbomim.pipeline.tars.samples import read_samples_of
from turbomim.pipeline.tars.split import parse_index_of
from turbomim.pipeline.tars.store import Kind, Store
from turbomim.pipeline.tars.stored_image import StoredImage, stored_images


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong. file: its name; member, offset: of an image, its name and first byte."""

    file: str
    member: str | None = None
    offset: int | None = None
    reason: str

    def __str__(self) -> str:
        where = self.file if self.member is None else f"{self.file}:{self.member}:{self.offset}"
        return f"{ascii(where)[1:-1]} {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyReport:
    """What `verify_split` looked at and found. images: decoded, whole ones and others."""

    manifest: Manifest
    images: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardCheck:
    """All that checking one shard needs. place, tars: of index and tar; images: decode them too."""

    number: int
    place: str
    tars: str
    shard: Shard
    foreign: bool
    members: Members
    store: Kind
    images: bool


def verify_split(
    path: str | os.PathLike[str],
    *,
    images: bool = False,
    workers: int = 1,
    progress: Progress = lambda *_: None,
) -> VerifyReport:
    """Check a split against its manifest, to the end, whatever is found.

    images: decode every image as strictly as possible too.  workers: shards at a time, on threads, with
    images on processes.  Raises UserError if there is no manifest to check against.
    """
    place = open_place(path)
    manifest = load_manifest(place)
    tars = place if manifest.tars is None else open_place(manifest.tars)
    at_least_one("--workers", workers)
    checks = [
        ShardCheck(
            number=number,
            place=str(place),
            tars=str(tars),
            shard=shard,
            foreign=manifest.foreign,
            members=Members.of(manifest.made),
            store=Store.of(manifest.made).kind,
            images=images,
        )
        for number, shard in enumerate(manifest.shards)
    ]
    found: dict[int, list[Problem]] = {}
    decoded = 0
    # hashing runs without the interpreter's lock; decoding must catch what a process prints
    with local_processes(workers) if images else ThreadPoolExecutor(workers) as executor:
        for number, problems, count in run_jobs(verify_shard, checks, executor):
            found[number] = problems
            decoded += count
            shard = manifest.shards[number]
            progress(shard.bytes, shard.samples, manifest.bytes)
    problems = [*_verify_listings(place, manifest), *_strays({place, tars}, manifest)]
    problems += [problem for number in sorted(found) for problem in found[number]]
    return VerifyReport(manifest=manifest, images=decoded, problems=tuple(problems))


def verify_shard(check: ShardCheck) -> tuple[int, list[Problem], int]:
    """Check one shard and its index.  Returns its number, the problems and how many images were decoded."""
    wrong = partial(Problem, file=check.shard.name)
    problems: list[Problem] = []
    entries: list[StoredImage] = []
    try:
        with open_tar(open_place(check.tars), check.shard.name) as tar:
            problems += _compare_bytes(tar, check.shard)
            lines, found = _compare_index(check, tar)
            problems += found
            if check.images:
                entries = stored_images(lines, check.members.image)
                problems += _decode_images(tar, check, entries)
    except OSError as error:
        problems.append(wrong(reason=_unread(error)))
    # BadTar, or a line of the index
    except ValueError as error:
        problems.append(wrong(reason=str(error)))
    return check.number, problems, len(entries)


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


def _compare_index(check: ShardCheck, tar: OpenTar) -> tuple[list[str], list[Problem]]:
    """Compare headers, index and count.  Returns the index's lines, of the headers or else of the file."""
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
    try:
        text = open_place(check.place).read(name)
        parse_index_of(shard, text, members, foreign=check.foreign)
    except OSError as error:
        return walked or [], [*problems, wrong(reason=_unread(error))]
    except ValueError as error:
        return walked or [], [*problems, wrong(reason=f"does not fit its tar: {error}")]
    lines = index_lines(text)
    if walked is not None and text != index_text(walked):
        pairs = enumerate(zip(lines, walked, strict=False), 2)
        line = next((number for number, (said, true) in pairs if said != true), len(walked) + 2)
        problems.append(
            wrong(reason=f"does not fit its tar: line {line:,} is not what the tar's headers say")
        )
    return lines if walked is None else walked, problems


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


def _verify_listings(place: Place, manifest: Manifest) -> list[Problem]:
    """Compare SHA256SUMS with the manifest, and the small files with SHA256SUMS."""
    try:
        lines = place.read(SUMS).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(file=SUMS, reason=_unread(error))]
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    expected = {shard.name: shard.sha256 for shard in manifest.shards if shard.sha256}
    required = [MANIFEST, *(index_name(shard.name) for shard in manifest.shards)]
    problems = []
    # a name in the file must not lead out of the folder
    others = (name for name in sums if "/" not in name and name not in expected)
    for name in dict.fromkeys([*required, *others]):
        try:
            expected[name] = hashlib.sha256(place.read(name)).hexdigest()
        except OSError as error:
            # a missing index is named with its shard
            if name not in required:
                problems.append(Problem(file=name, reason=_unread(error)))
        except ValueError:
            problems.append(Problem(file=SUMS, reason="is damaged: it lists a name with a zero byte"))
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
        return [name for name in place.files() if "/" not in name]
    except OSError:
        return []


def _unread(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8: {error}"
    return f"cannot be read: {explain(error, 'check the disk')}"
