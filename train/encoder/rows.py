"""What a model makes of every image of a folder, a list or shards: a row each, in the source's order.

An image that cannot be used has no row, and is named; nothing stands in for it.
Suffixes: N images of the source that have a row, B images of a batch, S the crop's side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from turbomim.pipeline.decoding.centre_crops import CentreCrop
from turbomim.pipeline.image_source import Source, source_classes, source_crops, source_keys
from turbomim.pipeline.making.photographs import Photographs, describe_others
from turbomim.pipeline.system.durable import check_space, make_folder_of
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.listings import BadImage
from turbomim.train.encoder.row_files import check_header
from turbomim.train.machine.processor import cores
from turbomim.train.terminal.progress import image_bar

# what is made of images (B, S, S, 3) uint8: tensors (B, …)
Make = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """Keys, labels (N,) int64, -1 for none, and what was made, (N, …) each; and what was left out.

    classes: the name of each label, where known.  notes: how the images were found, in lines.
    """

    keys: list[str]
    labels_N: NDArray[np.int64]
    classes: tuple[str, ...]
    made: tuple[NDArray[Any], ...]
    left_out: list[BadImage]
    notes: list[str]


def rows_of(
    source: Source,
    make: Make,
    crop: CentreCrop,
    *,
    batch: int,
    device: torch.device,
    out: Path | None,
    console: Console | None,
) -> Rows:
    """Make a row of every image of a source.

    batch: images made at once; out: the file that the rows are for, whose folder is made; None: there is
    none.  console: where the bar is drawn, standard output if None.
    Raises UserError if no image can be used, the source cannot be read, or the rows do not fit into the file
    or on its disk.
    """
    keys = source_keys(source)
    if out is not None:
        check_header(keys, out)
        make_folder_of(out)
    labels_N = np.full(len(keys), -1)
    rows: list[NDArray[Any]] = []
    kept: list[int] = []
    left_out = [*source.refused] if isinstance(source, Photographs) else []
    done = 0
    with image_bar(console or Console()) as bar:
        bar.show(0, len(keys))
        for some in source_crops(source, crop, batch=batch, threads=cores()):
            left_out += [BadImage(path=keys[place], reason=reason) for place, reason in some.faults]
            if len(some.places_B):
                made = [each.cpu().numpy() for each in make(torch.from_numpy(some.images_BHWC).to(device))]
                if not rows:
                    if out is not None:
                        check_space(out.parent, len(keys) * sum(each[0].nbytes for each in made))
                    # pages that nothing is written to are not taken
                    rows = [np.empty((len(keys), *each.shape[1:]), each.dtype) for each in made]
                here = slice(len(kept), len(kept) + len(some.places_B))
                labels_N[here] = some.labels_B
                for all_rows, each in zip(rows, made, strict=True):
                    all_rows[here] = each
                kept += some.places_B.tolist()
            done += len(some.places_B) + len(some.faults)
            bar.show(done, len(keys))
    if not kept:
        first = f": the first is {left_out[0].path!r}, {left_out[0].reason}" if left_out else ""
        where = source.root if isinstance(source, Photographs) else source.place
        raise UserError(f"{where} has no image that can be encoded{first}")
    return Rows(
        keys=[keys[place] for place in kept],
        labels_N=labels_N[: len(kept)],
        classes=source_classes(source),
        made=tuple(each[: len(kept)] for each in rows),
        left_out=left_out,
        notes=_notes(source),
    )


def _notes(source: Source) -> list[str]:
    """What people should know of how images were found, in lines."""
    if not isinstance(source, Photographs):
        return []
    others = source.other_files
    named = [f"not images by their names: {describe_others(others, most=20)}"] if others else []
    return [*source.notes, *named]
