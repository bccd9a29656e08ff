"""Photographs as evaluation sees them: short side to the crop's, the central square, no flip, nothing drawn.

It follows torchvision's Resize and CenterCrop on PIL images.  Unlike the loader it hands out what is asked
for, in the order asked for, and replaces nothing: what cannot be used is left out and named.
Shape suffixes: B samples, N ids, H W pixels, S the crop's side, C channels.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.crop_draws import resized_sides
from turbomim.pipeline.decoding.decode import Pixels, decode_stored
from turbomim.pipeline.decoding.resize import resize
from turbomim.pipeline.decoding.under_way import Journal, begin, known_bad
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.stream.turns import turns_of
from turbomim.pipeline.system.errors import to_stderr
from turbomim.pipeline.system.threads import serial_pool
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Interpolation, Kind, Store

# batches read while one is decoded
PREFETCH = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class CentreCrop:
    """The central square of an image whose short side is resized, by `interpolation`.

    size: pixels of its side; share: of the resized short side that it keeps, 0.875 is the published tests'
    224 of 256.
    """

    size: int
    interpolation: Interpolation = "bicubic"
    share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Crops:
    """Some images in a row of those asked for: images (B, S, S, 3) uint8, labels (B,) int64, -1 for none.

    places_B: int64, where each stands in what was asked for.  faults: (place, reason) of those between them
    that cannot be read as images, and are left out.
    """

    images_BHWC: Pixels
    labels_B: NDArray[np.int64]
    places_B: NDArray[np.int64]
    faults: tuple[tuple[int, str], ...]


def centre_crop(pixels_HWC: Pixels, crop: CentreCrop) -> Pixels:
    """Return the central (S, S, 3) of an image whose short side is resized to S over the crop's share."""
    size = crop.size
    sides_2 = np.array(pixels_HWC.shape[:2])
    height, width = resized_sides(sides_2, sides_2.min(keepdims=True), int(size / crop.share)).tolist()
    # torchvision rounds halves to even
    top, left = round((height - size) / 2), round((width - size) / 2)
    # torch takes no read-only memory, which stored pixels are
    pixels_HWC = np.require(pixels_HWC, requirements="W")
    return resize(pixels_HWC, height, width, crop.interpolation)[top : top + size, left : left + size]


def crop_in_row(
    start: int,
    images: list[Pixels | str],
    labels_B: NDArray[np.int64],
    store: Kind,
    crop: CentreCrop,
    pool: Executor,
) -> Crops:
    """Crop images in a row, the first of which stands at `start`.

    images: bytes as stored, or the reason why there are none.  pool: of `serial_pool`, does the work.
    """

    def crop_one(image: Pixels | str) -> Pixels | str:
        decoded = image if isinstance(image, str) else decode_stored(image, store)
        return decoded if isinstance(decoded, str) else centre_crop(decoded, crop)

    crops = [*pool.map(crop_one, images)]
    there_B = np.array([not isinstance(one, str) for one in crops])
    cropped = [one for one in crops if not isinstance(one, str)]
    return Crops(
        images_BHWC=np.stack(cropped) if cropped else np.empty((0, crop.size, crop.size, 3), np.uint8),
        labels_B=labels_B[there_B],
        places_B=start + np.nonzero(there_B)[0],
        faults=tuple((start + place, one) for place, one in enumerate(crops) if isinstance(one, str)),
    )


def split_crops(
    split: Split,
    ids_N: NDArray[np.int64],
    crop: CentreCrop,
    *,
    batch: int,
    threads: int,
    journal: Journal | None = None,
) -> Iterator[Crops]:
    """Yield the crops of a split's samples in the order of `ids`; places count in `ids`.

    batch: samples of one item, the last may have fewer; threads: that decode; journal: where to say
    what is being decoded, and which samples must not be.
    Raises UserError naming shard and offset if a shard cannot be read.
    """
    store = Store.of(split.manifest.made).kind
    bad = known_bad(journal, split.manifest.fingerprint)
    with (
        serial_pool(threads, "turbomim-decode") as pool,
        ReadAhead(split, turns_of(ids_N, batch), readers=1, prefetch=PREFETCH) as ahead,
        begin(journal, split.manifest.fingerprint, to_stderr) or nullcontext() as under_way,
    ):
        for turn, samples in ahead:
            numbered = zip(turn.ids_B.tolist(), samples.images, strict=True)
            images: list[Pixels | str] = [bad.get(sample, image) for sample, image in numbered]
            if under_way is not None:
                under_way.note([turn.ids_B])
            yield crop_in_row(turn.position, images, samples.labels_B, store, crop, pool)


def say_left_out(place: int, line: str) -> None:
    """Say on standard error that an image is left out."""
    to_stderr(f"{line}: left out")


def note_left_out(places: set[int], place: int, line: str) -> None:
    """Say on standard error that an image is left out, and keep its place."""
    places.add(place)
    say_left_out(place, line)


def centre_crops(
    split: Split,
    ids_N: NDArray[np.int64],
    crop: CentreCrop,
    *,
    batch: int,
    threads: int,
    labelled: bool = True,
    left_out: Callable[[int, str], None] = say_left_out,
    journal: Journal | None = None,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield images (B, S, S, 3) uint8 and labels (B,) int64 of samples, in the order of `ids`.

    batch, threads, journal: as in `split_crops`; labelled: or else a sample may have no label, -1; left_out:
    takes the place in `ids` of each sample that cannot be decoded or has no label, and a line on it.
    Raises UserError naming shard and offset if a shard cannot be read.
    """
    for crops in split_crops(split, ids_N, crop, batch=batch, threads=threads, journal=journal):
        wanted_B = (crops.labels_B >= 0) | (not labelled)
        faults = [(place, f"cannot be decoded ({reason})") for place, reason in crops.faults]
        faults += [(int(place), "has no label") for place in crops.places_B[~wanted_B]]
        for place, fault in faults:
            left_out(place, f"{split.locate(int(ids_N[place]))} in {str(split.place)!r} {fault}")
        if wanted_B.any():
            yield crops.images_BHWC[wanted_B], crops.labels_B[wanted_B]
