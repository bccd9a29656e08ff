"""Photographs as evaluation sees them: short side resized, the central square, no flip, nothing drawn.

It follows torchvision's Resize and CenterCrop on PIL images.  Unlike the loader it hands out what is asked
for, in the order asked for, and replaces nothing: a score over other images would be another score.
Shape suffixes: B samples, N ids, H W pixels, S the crop's side, C channels.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.crops import Interpolation, resized_sides
from turbomim.pipeline.decode import Decoder
from turbomim.pipeline.errors import UserError
from turbomim.pipeline.order import Turn
from turbomim.pipeline.read import ReadAhead
from turbomim.pipeline.repair import admit
from turbomim.pipeline.resize import resize
from turbomim.pipeline.shards import Split
from turbomim.pipeline.store import Store

Pixels = NDArray[np.uint8]

# batches read while one is decoded
PREFETCH = 2


def centre_crop(pixels_HWC: Pixels, size: int, interpolation: Interpolation, share: float = 1.0) -> Pixels:
    """Return the central (size, size, 3) of an image whose short side is resized to `size / share`.

    share: of the short side that the crop keeps; 0.875 is the published tests' 224 of 256.
    """
    sides_2 = np.array(pixels_HWC.shape[:2])
    height, width = resized_sides(sides_2, sides_2.min(keepdims=True), int(size / share)).tolist()
    # torchvision rounds halves to even
    top, left = round((height - size) / 2), round((width - size) / 2)
    # torch takes no read-only memory, which stored pixels are
    pixels_HWC = np.require(pixels_HWC, requirements="W")
    return resize(pixels_HWC, height, width, interpolation)[top : top + size, left : left + size]


def centre_crops(
    split: Split,
    ids_N: NDArray[np.int64],
    *,
    size: int,
    interpolation: Interpolation,
    batch: int,
    threads: int,
    share: float = 1.0,
    labelled: bool = True,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield images (B, S, S, 3) uint8 and labels (B,) int64 of samples, in the order of `ids`.

    batch: samples of one item, the last may have fewer; threads: that decode; share: as in `centre_crop`;
    labelled: or else a sample may have no label, -1.
    Raises UserError naming the sample: it cannot be read or decoded, or has no label.
    """
    store = Store.of(split.manifest.made).kind
    decoder = Decoder(threads=threads, batch=batch) if store != "raw" else None
    turns = (
        Turn(position=start, epochs_B=np.zeros_like(ids_B), ids_B=ids_B)
        for start in range(0, len(ids_N), batch)
        for ids_B in (ids_N[start : start + batch],)
    )
    with ReadAhead(split, turns, readers=1, prefetch=PREFETCH) as ahead:
        for turn, samples in ahead:
            admitted: list[Pixels | str] = []
            for image in samples.images:
                try:
                    admitted.append(admit(image, store))
                except ValueError as error:
                    admitted.append(str(error))
            faults = [(place, text) for place, text in enumerate(admitted) if isinstance(text, str)]
            images = [image for image in admitted if not isinstance(image, str)]
            if decoder is not None and not faults:
                decoded = decoder.decode(images)
                faults = [(place, text) for place, text in enumerate(decoded) if isinstance(text, str)]
                images = [image for image in decoded if not isinstance(image, str)]
            if faults:
                place, reason = faults[0]
                raise UserError(
                    f"{split.locate(int(turn.ids_B[place]))} in {str(split.path)!r} cannot be decoded "
                    f"({reason}): an evaluation leaves no image out; mend it and remake the split with "
                    "`turbomim shard make`"
                )
            (unlabelled,) = np.nonzero(samples.labels_B < 0)
            if labelled and len(unlabelled):
                raise UserError(
                    f"{split.locate(int(turn.ids_B[unlabelled[0]]))} in {str(split.path)!r} has no label: "
                    "make the split from a folder with a folder of images a class"
                )
            crops = [centre_crop(image, size, interpolation, share) for image in images]
            yield np.stack(crops), samples.labels_B
