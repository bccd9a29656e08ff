"""Foreign tars into a split: `index_tars` lists what lies where, and changes no tar.

Beside each X.tar an X.idx is written, and for the folder the manifest and the listings of a split; `into`
another folder where the place of the tars can only be read.  In a store headers and labels are read alone,
small members with them: then no tar is hashed, and its index tells it from others.  Nothing is left out
without a word: what cannot be read as samples is an error that names shard, sample and byte.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from turbomim import __version__
from turbomim.pipeline.making.tar_folder import (
    check_listings,
    find_tars,
    index_target,
    name_split,
    put_file,
    write_index,
)
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.places.place import Place, Status
from turbomim.pipeline.places.retries import TRAFFIC
from turbomim.pipeline.system.errors import UserError, at_least_one
from turbomim.pipeline.system.remedies import explain
from turbomim.pipeline.tars.index import Members, index_text
from turbomim.pipeline.tars.keys import IMAGE_EXTENSIONS, Keys, TarNames, choose_keys, look_at_names
from turbomim.pipeline.tars.listings import BadImage, list_split
from turbomim.pipeline.tars.manifest import Manifest, Shard, fingerprint_of, index_name
from turbomim.pipeline.tars.open_tar import BadTar, open_tar
from turbomim.pipeline.tars.samples import TarSamples, read_samples_of
from turbomim.pipeline.tars.store import Store
from turbomim.pipeline.tars.walk import walk_tar

# called from any thread: bytes and images done since its last call, bytes in all
Progress = Callable[[int, int, int], None]
# tars of a store read at a time; those whose names tell where keys end, and how many of each do
STORE_THREADS = 64
FEW_TARS = 4
FEW_NAMES = 1000


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How tars are indexed.  The text below a field is also the help of its flag."""

    name: str | None = None
    """Data set name; the folder's name if not given."""
    split: str | None = None
    """Split's name; if not given the one that the tars' names tell, else train."""
    image: tuple[str, ...] = ()
    """Extensions of the image, as in KEY.EXT; if not given, the sample's one member with an image's."""
    label: str | None = None
    """Extension of the label, a decimal number as text, or none; if not given, cls if every sample has it."""
    keys: Keys | None = None
    """Dot of a file's name at which its key ends, WebDataset's is the first; if not given, the names tell."""
    workers: int = 1
    """Threads, a tar each; 64 in a store."""
    into: str | None = None
    """Folder for index and manifest of tars in a store that can only be read; beside them if not given."""
    allow_missing: bool = False
    """Leave out samples without an image, named in bad.jsonl."""
    force: bool = False
    """Replace index files and listings that are already there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexReport:
    """What `index_tars` found. left_out: samples without an image; others: files of no sample.

    unread: images and labels, by their names, that are not read, by extension.  note: how keys were cut.
    requests, read: to a store, and the bytes that they read.
    """

    place: Place
    manifest: Manifest
    left_out: int
    others: int
    unread: Counter[str]
    note: str
    requests: int
    read: int


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedTar:
    """One tar, read: its entry in the manifest, the sha256 of its index, its samples without their lines."""

    shard: Shard
    index_sha256: str
    samples: TarSamples


def index_tars(
    path: str | os.PathLike[str],
    settings: IndexSettings | None = None,
    *,
    progress: Progress = lambda *_: None,
) -> IndexReport:
    """Index all `*.tar` of a folder or of a place, in natural order of their names, as one split.

    Where all labels say -1 there are none.  Keys that are not given end as `choose_keys` says.  Reading and
    hashing run side by side.  Raises UserError; index files written by then are right and stay.
    """
    place, settings = open_place(path), settings or IndexSettings()
    target = index_target(place, settings.into)
    requests, read = TRAFFIC.requests, TRAFFIC.bytes
    tars = find_tars(place)
    name, split = name_split(str(place), tars, settings.name, settings.split)
    check_listings(target, settings.force)
    label = settings.label or "cls"
    choice = Members(
        image=tuple(extension.lower().lstrip(".") for extension in settings.image),
        label=None if label == "none" else label.lower().lstrip("."),
    )
    keys, note = settings.keys, ""
    at_least_one("--workers", settings.workers)
    if keys is None:
        keys, note = _find_keys(place, tars, choice, settings.workers)
    choice = replace(choice, keys=keys)
    indexed = _index_all(place, target, tars, choice, settings, progress)
    without = _check_images(indexed, choice, settings.allow_missing)
    labelled = sum(tar.samples.labelled for tar in indexed)
    numbered = sum(tar.samples.numbered for tar in indexed)
    shards = tuple(tar.shard for tar in indexed)
    samples = sum(shard.samples for shard in shards)
    if labelled < samples and (labelled or (settings.label and choice.label)):
        raise UserError(
            f"{labelled:,} of {samples:,} samples in {str(place)!r} have a label ({choice.label}): "
            "choose with --label EXT, or --label none to read no labels"
        )
    images, unread = Counter[str](), Counter[str]()
    for tar in indexed:
        images += tar.samples.images
        unread += tar.samples.unread
    record = {"image": sorted(images), "label": choice.label if numbered else None, "keys": keys}
    made = {"by": f"turbomim {__version__}", "indexed": record, "store": Store().to_json()}
    if settings.into is not None:
        made["tars"] = str(place)
    manifest = Manifest(
        name=name,
        split=split,
        shards=shards,
        classes=(),
        fingerprint=fingerprint_of(shards),
        made=made,
    )
    index_sums = {index_name(tar.shard.name): tar.index_sha256 for tar in indexed}
    for listing, content in list_split(manifest, tuple(without), index_sums).items():
        put_file(target, listing, content)
    return IndexReport(
        place=target,
        manifest=manifest,
        left_out=len(without),
        others=sum(tar.samples.others for tar in indexed),
        unread=unread,
        note=note,
        requests=TRAFFIC.requests - requests,
        read=TRAFFIC.bytes - read,
    )


def _index_tar(
    place: Place,
    target: Place,
    name: str,
    choice: Members,
    settings: IndexSettings,
    advance: Callable[[int], None],
) -> IndexedTar:
    """Read one tar and write its index.  Raises BadTar, OSError, UserError."""
    with open_tar(place, name) as tar:
        samples = read_samples_of(tar, choice)
        digest = tar.sha256(advance) if place.folder else ""
    text = index_text(samples.lines)
    if settings.allow_missing or not samples.without:
        write_index(target, index_name(name), text, settings.force)
    index_sha256 = hashlib.sha256(text).hexdigest()
    shard = Shard(
        name=name,
        samples=len(samples.lines),
        bytes=tar.size,
        sha256=digest,
        index_sha256="" if digest else index_sha256,
    )
    samples.lines.clear()
    if not digest:
        advance(tar.size)
    return IndexedTar(shard=shard, index_sha256=index_sha256, samples=samples)


def _find_keys(place: Place, tars: list[str], choice: Members, workers: int) -> tuple[Keys, str]:
    """Look at the names in all tars, in a store at some in a few, for the dot at which keys end; say why."""
    if place.folder is None:
        # evenly spaced: a header may be a request
        tars = tars[:: -(-len(tars) // FEW_TARS)]

    def look(tar: str) -> TarNames:
        names: list[bytes] = []
        # one that cannot be read is named when it is indexed
        with suppress(BadTar, OSError), open_tar(place, tar) as opened:
            few = None if place.folder else FEW_NAMES
            names += (member.name for member in islice(walk_tar(opened), few))
            if len(names) == few:
                # more of the last sample may follow
                last = names[-1].rpartition(b".")[0]
                names = [name for name in names if name.rpartition(b".")[0] != last]
        return look_at_names(names, choice.is_image, choice.label)

    with ThreadPoolExecutor(workers) as pool:
        return choose_keys(list(pool.map(look, tars)))


def _index_all(
    place: Place,
    target: Place,
    tars: list[str],
    choice: Members,
    settings: IndexSettings,
    progress: Progress,
) -> list[IndexedTar]:
    """Index every tar; raise UserError for the first that cannot be, and count the others."""
    sizes = place.statuses(tars)
    total = sum(status.bytes for status in sizes if isinstance(status, Status))

    def index(tar: str) -> IndexedTar | str:
        try:
            done = _index_tar(place, target, tar, choice, settings, lambda count: progress(count, 0, total))
        except UserError as error:
            return str(error)
        except BadTar as error:
            return f"{place.at(tar)!r} {error}"
        except OSError as error:
            return f"{place.at(tar)!r} cannot be read: {explain(error, 'check the disk')}"
        progress(0, done.shard.samples, total)
        return done

    # threads: reading and hashing, most of the work, run without the interpreter's lock
    pool = ThreadPoolExecutor(settings.workers if place.folder else STORE_THREADS)
    try:
        results = list(pool.map(index, tars))
    finally:
        pool.shutdown(cancel_futures=True)
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        count = f"; {len(problems):,} of {len(tars):,} tars have problems" if problems[1:] else ""
        raise UserError(problems[0] + count)
    return [result for result in results if isinstance(result, IndexedTar)]


def _check_images(indexed: list[IndexedTar], choice: Members, allow_missing: bool) -> list[BadImage]:
    """Name the samples without an image.  Raises UserError: no images, unwanted gaps, an unclear choice."""
    wanted = " ".join(choice.image or IMAGE_EXTENSIONS)
    missing = [(tar.shard.name, *sample) for tar in indexed for sample in tar.samples.without]
    images = sorted({extension for tar in indexed for extension in tar.samples.images})
    if not images:
        found = Counter(extension for _, _, extensions in missing for extension in extensions).most_common(8)
        if not found:
            raise UserError(
                f"no sample has an image: looked for {wanted}, found no files with an extension; give "
                "a folder of tars with images"
            )
        names = ", ".join(f"{count:,} {extension}" for extension, count in found)
        raise UserError(
            f"no sample has an image: looked for {wanted}, found {names}; choose with --image EXT"
        )
    # jpg beside png is one field in two formats; jpg beside seg.png is two fields
    fields = {extension.rpartition(".")[0]: extension for extension in images}
    if len(fields) > 1 and not choice.image:
        names = " and ".join(list(fields.values())[:2])
        every = " ".join(images[:8])
        other = ", or, if names may hold dots, --keys last-dot" if choice.keys == "first-dot" else ""
        raise UserError(
            f"the images of some samples are {names}: choose with --image EXT, or take all with --image "
            f"{every}{other}"
        )
    if missing and not allow_missing:
        tar, key, extensions = missing[0]
        raise UserError(
            f"{len(missing):,} samples have no image ({wanted}), the first is {key!r} in {tar!r} with "
            f"{' '.join(extensions[:8])}: choose with --image EXT, or leave them out with --allow-missing"
        )
    return [
        BadImage(path=f"{tar}:{key}", reason=f"no image among its members: {' '.join(extensions)}")
        for tar, key, extensions in missing
    ]
