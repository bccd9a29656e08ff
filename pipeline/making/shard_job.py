"""One shard is one pure job: photographs in, a tar and its index out."""

import hashlib
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from turbomim.pipeline.making.image_file import (
    EncodedImage,
    RefusedImage,
    check_image,
    read_file,
    read_object,
)
from turbomim.pipeline.making.photographs import Photograph
from turbomim.pipeline.making.settings import Check, OnBad
from turbomim.pipeline.places.lease import read_lease
from turbomim.pipeline.places.opening import is_remote, open_place
from turbomim.pipeline.system.durable import durable_file, write_durably, write_error
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.executors import READ_THREADS
from turbomim.pipeline.system.remedies import PlaceError, explain
from turbomim.pipeline.tars.index import index_text
from turbomim.pipeline.tars.listings import BadImage
from turbomim.pipeline.tars.manifest import MAKING, Shard, index_name
from turbomim.pipeline.tars.store import Store
from turbomim.pipeline.tars.tar import BLOCK, RECORD, sample_bytes, tar_end, tar_member

# called with (images done, images in all) at the start and after each shard
Progress = Callable[[int, int], None]

# what a run in a store of objects holds while it makes shards there
LEASE = f"{MAKING}/lease.json"
# 12 bits in a file of 16 keep 17 of 256 levels
FEW_LEVELS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardJob:
    """All that writing one shard needs. root, folder: absolute paths or URLs; stem: name without extension.

    min_side: pixels.  on_bad: "fail" stops at an image that is not fit, "quarantine" leaves it out.  mark: of
    the lease that the run has of a store.
    """

    number: int
    root: str
    folder: str
    stem: str
    images: tuple[Photograph, ...]
    min_side: int
    check: Check
    on_bad: OnBad
    store: Store
    mark: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardResult:
    """What job `number` wrote: shard is None where no image was fit.

    shard.name: as the job named it, before the numbers are closed up.  index_sha256: hex, of the index file.
    samples_by_label counts what was written; few_levels: images of 16 bits, written too, of which little is
    left in 8; altered: of `ALTERED`, the images written, and the first of their paths.
    """

    number: int
    shard: Shard | None
    index_sha256: str
    bad: tuple[BadImage, ...]
    samples_by_label: dict[int, int]
    few_levels: tuple[BadImage, ...] = ()
    altered: dict[str, tuple[int, str]] = field(default_factory=dict)


def job_bytes(job: ShardJob) -> int:
    """Bytes of the tar if every image is fit, estimated where they are resized; the index is under a
    hundredth."""
    return RECORD + sum(
        sample_bytes(len(str(image.label)), stored_bytes(job.store, image)) for image in job.images
    )


def stored_bytes(store: Store, image: Photograph) -> int:
    """Bytes that a store takes for an image; for a resized one, those of a photograph of 4:3, rounded up."""
    if store.short_side is None:
        return image.bytes
    pixels = store.short_side**2 * 4 // 3
    # measured on photographs: 0.61 bytes a pixel at quality 95 and 4:4:4; three are the most
    share = 3.0 if store.kind == "raw" else 0.75 if (store.quality or 0) <= 95 else 1.5
    return int(pixels * share)


def pack_shard(job: ShardJob) -> ShardResult:
    """Write one tar and its index.  The same job gives the same bytes, in any process, also in two at once.

    Raises UserError: a file cannot be written, a source file is not as listed, or on_bad is "fail".
    """
    if is_remote(job.folder):
        return _pack_for_store(job)
    tar_path = Path(job.folder, f"{job.stem}.tar")
    with durable_file(tar_path, needed=job_bytes(job), unique=True) as out:
        result, index = _write_tar(job, out)
    if result.shard is None:
        tar_path.unlink(missing_ok=True)
    else:
        write_durably(tar_path.with_suffix(".idx"), index, unique=True)
    return result


def _pack_for_store(job: ShardJob) -> ShardResult:
    """Write a tar into a file without a name, which nothing can leave behind, and put it and its index."""
    # here, in the worker: a client has threads and connections, which go from no process to another
    place = open_place(job.folder)
    try:
        with tempfile.TemporaryFile() as out:
            result, index = _write_tar(job, out)
            out.flush()
            if result.shard is None:
                return result
            if read_lease(place, LEASE) != job.mark:
                raise UserError(f"{job.folder!r} was taken over by another process: this one stops")
            place.put(result.shard.name, Path(f"/dev/fd/{out.fileno()}"))
            place.put(index_name(result.shard.name), index)
            return result
    except PlaceError as error:
        where = place.at(f"{job.stem}.tar")
        raise UserError(f"cannot write {where!r}: {explain(error, 'check the store')}") from error
    except OSError as error:
        raise write_error(Path(tempfile.gettempdir()), error, needed=job_bytes(job)) from error


def _write_tar(job: ShardJob, out: BinaryIO) -> tuple[ShardResult, bytes]:
    """Write the tar of a job, and give its index too; without a shard where no image was fit."""
    digest, size = hashlib.sha256(), 0
    lines: list[str] = []
    bad: list[BadImage] = []
    few_levels: list[BadImage] = []
    altered: dict[str, list[str]] = {}
    by_label = Counter[int]()
    for image, content in zip(job.images, _contents(job), strict=True):
        try:
            stored = _stored_image(job, content)
        except RefusedImage as refused:
            bad.append(BadImage(path=image.path, reason=str(refused)))
            if job.on_bad == "fail":
                raise bad_image_error(bad[0]) from refused
            continue
        if stored.levels is not None and stored.levels < FEW_LEVELS:
            few_levels.append(BadImage(path=image.path, reason=f"{stored.levels} of 256 levels"))
        for what in stored.altered:
            altered.setdefault(what, []).append(image.path)
        fields = []
        for kind, data in (("cls", str(image.label).encode()), (stored.extension, stored.content)):
            member = tar_member(f"{image.key}.{kind}", data)
            fields.append(f"{kind} {size + BLOCK} {len(data)} {image.key}.{kind}")
            out.write(member)
            digest.update(member)
            size += len(member)
        lines.append(" ".join(fields))
        by_label[image.label] += 1
    out.write(tar_end(size))
    digest.update(tar_end(size))
    size += len(tar_end(size))
    index = index_text(lines)
    shard = Shard(name=f"{job.stem}.tar", samples=len(lines), bytes=size, sha256=digest.hexdigest())
    result = ShardResult(
        number=job.number,
        shard=shard if lines else None,
        index_sha256=hashlib.sha256(index).hexdigest() if lines else "",
        bad=tuple(bad),
        samples_by_label=dict(by_label),
        few_levels=tuple(few_levels),
        altered={what: (len(paths), min(paths)) for what, paths in altered.items()},
    )
    return result, index


def bad_image_error(bad: BadImage) -> UserError:
    """What `--on-bad fail` stops with."""
    return UserError(f"{bad.path!r}: {bad.reason}; mend or remove it, or give --on-bad quarantine")


def _contents(job: ShardJob) -> Iterator[bytes | RefusedImage]:
    """Read the images in order, or say why one cannot be: one after the other, and in a store ahead."""

    place = open_place(job.root) if is_remote(job.root) else None

    def read(image: Photograph) -> bytes | RefusedImage:
        try:
            return read_object(place, image) if place else read_file(job.root, image)
        except RefusedImage as refused:
            return refused

    if place is None:
        yield from map(read, job.images)
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        ahead = deque[Future[bytes | RefusedImage]]()
        for image in job.images:
            ahead.append(pool.submit(read, image))
            if len(ahead) == 2 * READ_THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _stored_image(job: ShardJob, content: bytes | RefusedImage) -> EncodedImage:
    """Check an image, and make what the store keeps of it.  Raises RefusedImage."""
    if isinstance(content, RefusedImage):
        raise content
    encoded = check_image(content, job.min_side)
    if job.store.kind == "original" and job.check == "header":
        return encoded
    # torch takes seconds to import, and copying does not need it
    from turbomim.pipeline.making.transcode import transcode

    return transcode(encoded, job.store, strict=job.check == "full")
