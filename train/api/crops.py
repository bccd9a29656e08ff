"""`turbomim.centre_crops`: every image of a source once, as tests see it."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from os import PathLike, fspath

import torch

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.centre_crops import CentreCrop
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.image_source import Source, open_source, source_crops, source_keys
from turbomim.pipeline.making.photographs import Photographs
from turbomim.pipeline.system.errors import need
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.pipeline.tars.store import Interpolation
from turbomim.train.api.arguments import check_number, line_taker, whole
from turbomim.train.encoder.crop import crop_share
from turbomim.train.machine.processor import cores
from turbomim.train.world.distributed import choose_device


def centre_crops(
    source: str | PathLike[str],
    *,
    size: int = 224,
    share: float | None = None,
    interpolation: Interpolation = "bicubic",
    batch: int = 256,
    device: str | torch.device = "cpu",
    columns: str | None = None,
    skip: str | None = None,
    notify: Callable[[str], None] | None = None,
) -> Iterable[Batch]:
    """Give every image of a source once, in its order: the central square, not flipped, nothing drawn.

    Each `for` over what it returns begins again.

    For the validation of a training of your own, and for images that are in no shards.

    Example:
        for batch in turbomim.centre_crops("shards/test", size=224, batch=256):
            right += (model(batch.images_BHWC).argmax(1) == batch.labels_B).sum()

    Args:
        source: Shards, or a folder of images, or of a folder of images a class, or a .csv, .tsv or .txt list.
        size: Pixels a side of the crop.
        share: Of the resized short side that the crop keeps, above 0, at most 1.  None: the published 0.875
            from 64 to 224 pixels (224 of 256), all of it for other sizes.
        interpolation: Of the resize, "bicubic" or "bilinear".
        batch: Images of a batch; the last has fewer, and so has one of which images are left out.
        device: Where batches are.
        columns: What a list's columns are called, "path=NAME,label=NAME".
        skip: Names in a folder to pass over, "PATTERN[,PATTERN]".
        notify: Takes one line an image that cannot be used and is left out.  None: each line is a warning of
            Python's.

    Returns:
        Batches as those of `turbomim.Loader`: ids_B are places in the source, epochs_B are 0, labels_B are -1
        for an image without a label.

    Raises:
        UserError: There is no image, an argument cannot be, there is no such device, or the source cannot be
            read.
    """
    size, batch = whole("size", size), whole("batch", batch)
    need(batch >= 1, "batch", batch, "at least 1")
    notify = line_taker(notify)
    if share is not None:
        check_number("share", share)
    need(share is None or 0 < share <= 1, "share", share, "above 0 and at most 1")
    # what no crop of training can have is refused likewise
    Crop(kind="rrc", size=size, interpolation=interpolation)
    raise_limit()
    crop = CentreCrop(size=size, interpolation=interpolation, share=share or crop_share(size))
    images = open_source(fspath(source), columns, skip)
    return _EachTime(partial(_batches, images, crop, batch, choose_device(device), notify))


class _EachTime(Iterable[Batch]):
    """What begins again with each `for`: an iterator would give nothing in the second epoch."""

    def __init__(self, begin: Callable[[], Iterator[Batch]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Batch]:
        return self._begin()


def _batches(
    source: Source, crop: CentreCrop, batch: int, device: torch.device, notify: Callable[[str], None]
) -> Iterator[Batch]:
    if isinstance(source, Photographs):
        for image in source.refused:
            notify(f"{image.path} is left out: {image.reason}")
    for crops in source_crops(source, crop, batch=batch, threads=cores()):
        if crops.faults:
            keys = source_keys(source)
            for place, reason in crops.faults:
                notify(f"{keys[place]} is left out: {reason}")
        if not len(crops.places_B):
            continue
        ids_B = torch.from_numpy(crops.places_B).to(device)
        yield Batch(
            images_BHWC=torch.from_numpy(crops.images_BHWC).to(device),
            labels_B=torch.from_numpy(crops.labels_B).to(device),
            ids_B=ids_B,
            epochs_B=torch.zeros_like(ids_B),
            position=int(crops.places_B[0]),
        )
