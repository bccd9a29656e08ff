"""Every image of a folder, a list or a split as a central crop, in the source's order, each with its key.

An image that the shard maker would refuse, or that does not decode, is left out and named, never replaced.
Shape suffixes: B images of a batch.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from turbomim.pipeline.decoding.centre_crops import CentreCrop, Crops, crop_in_row, split_crops
from turbomim.pipeline.decoding.decode import Pixels
from turbomim.pipeline.making.image_file import RefusedImage, read_image
from turbomim.pipeline.making.photographs import Photograph, Photographs
from turbomim.pipeline.making.plan import find_source
from turbomim.pipeline.places.opening import is_remote
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.system.threads import serial_pool
from turbomim.pipeline.tars.index import Members
from turbomim.pipeline.tars.keys import split_key
from turbomim.pipeline.tars.manifest import MAKING, MANIFEST
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.pipeline.tars.stored_image import images_of_shard

# pixels: what `shard make` refuses unless told otherwise
MIN_SIDE = 32
# files read at once: a network disk answers many small requests together
READERS = 8

Source = Photographs | Split


def open_source(path: str | os.PathLike[str], columns: str | None = None, skip: str | None = None) -> Source:
    """Open a folder of shards as a split, and list the images of any other folder, or of a list of paths.

    columns: of a list; skip: of a folder, as in `find_source`.  Raises UserError: nothing there, no images,
    shards that are not whole or not indexed.
    """
    shards = is_remote(path) or _holds_shards(Path(path))
    if shards and (columns, skip) != (None, None):
        raise UsageError(
            "--columns belongs to a list, --skip to a folder of images: leave them out for shards"
        )
    return open_split(path) if shards else find_source(path, columns=columns, skip=skip)


def _holds_shards(path: Path) -> bool:
    return path.is_dir() and (
        (path / MANIFEST).exists() or (path / MAKING).exists() or any(path.glob("*.tar"))
    )


def source_keys(source: Source) -> list[str]:
    """Name each image: its key in the shards, or its path below the folder or as in the list."""
    if isinstance(source, Photographs):
        return [image.path for image in source.images]
    members = Members.of(source.manifest.made)
    keys: list[str] = []
    for shard in source.manifest.shards:
        images = images_of_shard(source.place, shard.name, members)
        keys += [split_key(image.name, members.keys)[0] for image in images]
    return keys


def source_classes(source: Source) -> tuple[str, ...]:
    """Names of the classes by label; none for a source without."""
    return source.classes if isinstance(source, Photographs) else source.manifest.classes


def source_crops(source: Source, crop: CentreCrop, *, batch: int, threads: int) -> Iterator[Crops]:
    """Yield the crops of all images, `batch` at a time, those included that are left out.

    threads: that decode.
    Raises UserError: a shard cannot be read, or a file changed since it was listed.
    """
    if isinstance(source, Split):
        ids_N = np.arange(source.manifest.samples)
        yield from split_crops(source, ids_N, crop, batch=batch, threads=threads)
        return
    read = partial(_read, source.root)
    groups = [source.images[start : start + batch] for start in range(0, len(source.images), batch)]
    with (
        ThreadPoolExecutor(READERS, thread_name_prefix="turbomim-read") as readers,
        serial_pool(threads, "turbomim-decode") as pool,
    ):
        ahead = readers.map(read, groups[0] if groups else ())
        for number, group in enumerate(groups):
            encoded = [*ahead]
            # read while these are decoded and used
            ahead = readers.map(read, groups[number + 1] if number + 1 < len(groups) else ())
            labels_B = np.array([image.label for image in group], np.int64)
            yield crop_in_row(batch * number, encoded, labels_B, "original", crop, pool)


def _read(root: str, image: Photograph) -> Pixels | str:
    """Read an image file's bytes, or say why it must not be used."""
    try:
        return np.frombuffer(read_image(root, image, MIN_SIDE).content, np.uint8)
    except RefusedImage as refused:
        return str(refused)
