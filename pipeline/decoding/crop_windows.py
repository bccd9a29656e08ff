"""Where the crops of samples lie, without their pixels: to measure what crops show.

What is drawn for a sample, and the arithmetic of windows, are those of the loader, so a window here is the
window that training sees.  Shape suffixes: B samples, A attempts.
"""

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import Inputs, draw_crops, resized_sides, window_starts
from turbomim.pipeline.decoding.crop_graphs import rrc_window
from turbomim.pipeline.decoding.dali_package import import_dali
from turbomim.pipeline.decoding.header import check_header
from turbomim.pipeline.decoding.ppm import ppm_pixels
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.stream.turns import Turn, turns_of
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Store

# photographs read at once for their headers
CHUNK = 64
# such groups read while one is looked at
PREFETCH = 2


def stored_sides(split: Split, ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return height and width of each sample's stored image, (B, 2), out of its header.

    Raises UserError naming the sample: it cannot be read, or has no size.
    """
    raw = Store.of(split.manifest.made).kind == "raw"
    sides: list[tuple[int, ...]] = []
    with ReadAhead(split, turns_of(ids_B, CHUNK), readers=1, prefetch=PREFETCH) as ahead:
        for turn, samples in ahead:
            for sample, image in zip(turn.ids_B.tolist(), samples.images, strict=True):
                try:
                    if raw:
                        sides.append(ppm_pixels(image).shape[:2])
                    else:
                        header = check_header(image)
                        sides.append((header.height, header.width))
                except ValueError as error:
                    raise UserError(
                        f"{split.locate(sample)} in {str(split.place)!r} has no size ({error}): mend it and "
                        "remake the split with `turbomim shard make`"
                    ) from error
    return np.array(sides, np.int64)


def crop_windows(
    crop: Crop, seed: int, turn: Turn, sides_B2: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each sample's window as training crops it, and whether it is flipped.

    sides (B, 2) int64: height and width of the stored image.  Windows (B, 2, 2) float64: its first corner
    (y, x), then its last, in shares of the image's sides; beyond [0, 1] an src window shows the image's
    mirrored border.  flips (B,) bool: left and right are exchanged after the cut.
    """
    inputs = draw_crops(crop, seed, turn)
    if crop.kind == "src":
        sides_B2 = resized_sides(sides_B2, sides_B2.min(1, keepdims=True), crop.size)
        starts_B2 = window_starts(inputs["words"], sides_B2, crop.size)
        shapes_B2 = np.full_like(starts_B2, crop.size)
    else:
        starts_B2, shapes_B2 = _rrc_windows(inputs, sides_B2)
    corners_B22 = np.stack([starts_B2, starts_B2 + shapes_B2], axis=1)
    return corners_B22 / sides_B2[:, None, :], inputs["flips"].astype(bool)


def _rrc_windows(inputs: Inputs, sides_B2: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Run the loader's own graph from draws to windows: starts (B, 2) and shapes (B, 2), int64."""
    dali = import_dali()
    pipeline = dali.Pipeline(batch_size=len(sides_B2), num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        squares, words, sides = (dali.fn.external_source(name=name) for name in ("squares", "words", "sides"))
        pipeline.set_outputs(*rrc_window(squares, words, sides))
    pipeline.build()
    for name, array in (("squares", inputs["squares"]), ("words", inputs["words"]), ("sides", sides_B2)):
        pipeline.feed_input(name, array)
    # copies: the memory is DALI's
    starts_B2, shapes_B2 = (np.array(out.as_tensor()) for out in pipeline.run())
    return starts_B2, shapes_B2
