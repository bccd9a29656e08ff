"""`turbomim.predict`: the classes of any images, by a fine-tuning.

Suffixes: N images, K the likeliest classes.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from turbomim import __version__
from turbomim.pipeline.image_source import open_source
from turbomim.pipeline.system.durable import write_durably
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.pipeline.tars.listings import BadImage
from turbomim.train.encoder.crop import own_crop
from turbomim.train.encoder.features import load_finetuned, normalised
from turbomim.train.encoder.row_files import file_to_write, write_arrays, write_left_out
from turbomim.train.encoder.rows import rows_of
from turbomim.train.folder.class_names import read_class_names
from turbomim.train.settings.config import Device
from turbomim.train.settings.dictionary import typed
from turbomim.train.settings.flags import check_least
from turbomim.train.world.distributed import choose_device

ENDINGS: Final = (".csv", ".jsonl", ".npz")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """The likeliest classes of images, a row each, in the order of their source.

    keys: paths below the folder, or as the list has them; of shards, the keys there.  classes: the head's, by
    number.  top_NK int64: numbers of the likeliest, the first first; probabilities_NK float32: theirs, of 1
    over all classes.  labels_N: the source's own labels as numbers of `classes`, -1 for none.  left_out:
    images without a row, each with path and reason.  step: of the weights.  notes: lines on the source.
    """

    keys: list[str]
    classes: tuple[str, ...]
    top_NK: NDArray[np.int64]
    probabilities_NK: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    left_out: list[BadImage]
    step: int
    notes: list[str]

    @property
    def names(self) -> list[list[str]]:
        """The names of the likeliest classes of each image, the first first."""
        return [[self.classes[number] for number in row] for row in self.top_NK.tolist()]

    @property
    def top1(self) -> float | None:
        """The share, 0 to 1, of the labelled images whose first class is right; None if none has a label."""
        known_N = self.labels_N >= 0
        return float((self.top_NK[known_N, 0] == self.labels_N[known_N]).mean()) if known_N.any() else None


def predict(
    run: str | PathLike[str],
    source: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    top: int = 5,
    columns: str | None = None,
    skip: str | None = None,
    batch: int = 128,
    device: Device = "auto",
    console: Console | None = None,
) -> Predictions:
    """Tell the classes of images by a fine-tuning's newest checkpoint, as `turbomim predict` does.

    Images are cut as the fine-tuning's own test cuts them, and computed in float32.

    Example:
        found = turbomim.predict("runs/mine/eval/finetune", "photographs")
        print(found.keys[0], found.names[0][0], found.probabilities_NK[0, 0])

    Args:
        run: The folder of a fine-tuning, RUN/eval/finetune.
        source: A folder of images, or of a folder of images a class; a .csv, .tsv or .txt list; or shards.
        out: A file to write, .csv, .jsonl or .npz; None: none is written.
        top: How many of the likeliest classes are given; all of them if there are fewer.
        columns: What a list's columns are called, "path=NAME,label=NAME".
        skip: Names in a folder to pass over, "PATTERN[,PATTERN]".
        batch: Images computed at once: speed and memory alone.
        device: "auto", "cuda" or "cpu".
        console: Where the bar is drawn; standard output if None.

    Returns:
        keys, names and probabilities_NK (N, K) float32 of the likeliest classes, left_out.

    Raises:
        UserError: The folder is no fine-tuning or has no checkpoint, there is no image, an image file changed
            while it was read, or the disk is full.
    """
    place = file_to_write(out, ENDINGS)
    top, batch = typed("top", top, int), typed("batch", batch, int)
    check_least(top=(top, 1), batch=(batch, 1))
    raise_limit()
    folder = Path(run)
    config, model, step = load_finetuned(folder)
    classes = read_class_names(folder, config)
    images = open_source(fspath(source), columns, skip)
    target = choose_device(device, 0)
    model.to(target).eval()

    @torch.no_grad()
    def likeliest(images_BHWC: Tensor) -> tuple[Tensor, ...]:
        shares_BC = model.logits(normalised(images_BHWC)).softmax(1)
        found = shares_BC.topk(min(top, len(classes)), dim=1)
        return found.indices, found.values

    crop = own_crop(config)
    rows = rows_of(images, likeliest, crop, batch=batch, device=target, out=place, console=console)
    predictions = Predictions(
        keys=rows.keys,
        classes=classes,
        top_NK=rows.made[0],
        probabilities_NK=rows.made[1],
        labels_N=_numbers_in(classes, rows.classes, rows.labels_N),
        left_out=rows.left_out,
        step=step,
        notes=[*rows.notes, *([f"by {config.optim.averaged}"] if config.optim.ema else [])],
    )
    if place is not None:
        facts = {"run": str(folder), "source": fspath(source), "turbomim": __version__}
        _write(place, predictions, facts)
        write_left_out(place, predictions.left_out)
    return predictions


def _numbers_in(
    classes: tuple[str, ...], named: tuple[str, ...], labels_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Labels that are numbers of `named` as numbers of `classes`; -1 for names that are not among these."""
    numbers = {name: number for number, name in enumerate(classes)}
    # the last one is what -1, no label, points at
    by_label = np.array([*(numbers.get(name, -1) for name in named), -1], np.int64)
    known_N = labels_N < len(named)
    return by_label[np.where(known_N, labels_N, -1)]


def _write(out: Path, found: Predictions, facts: dict[str, Any]) -> None:
    """Write the predictions as the file's name says."""
    if out.suffix == ".npz":
        numbers: dict[str, NDArray[Any]] = {"top": found.top_NK, "probabilities": found.probabilities_NK}
        if (found.labels_N >= 0).any():
            numbers["labels"] = found.labels_N
        made = {**facts, "step": found.step}
        write_arrays(out, numbers, {"keys": found.keys, "classes": list(found.classes), "made": made})
        return
    text = io.StringIO()
    if out.suffix == ".csv":
        csv.writer(text, lineterminator="\n").writerows(_table(found))
    else:
        for key, label, names, shares in _rows(found):
            row = {"key": key, **label, "classes": names, "probabilities": shares}
            text.write(json.dumps(row, ensure_ascii=False) + "\n")
    # names of files need not be UTF-8
    write_durably(out, text.getvalue().encode(errors="surrogateescape"))


def _table(found: Predictions) -> Iterator[list[object]]:
    """The rows of a CSV file, its header first."""
    places = range(1, found.top_NK.shape[1] + 1)
    label = ["label"] if (found.labels_N >= 0).any() else []
    yield ["key", *label, *(name for place in places for name in (f"class_{place}", f"probability_{place}"))]
    for key, own, names, shares in _rows(found):
        pairs = zip(names, shares, strict=True)
        yield [key, *(own.get(name, "") for name in label), *(each for pair in pairs for each in pair)]


def _rows(found: Predictions) -> Iterator[tuple[str, dict[str, str], list[str], list[float]]]:
    """Of each image its key, its own label if it has one, and the names and probabilities of its classes."""
    for key, number, names, shares in zip(
        found.keys, found.labels_N.tolist(), found.names, found.probabilities_NK, strict=True
    ):
        own = {"label": found.classes[number]} if number >= 0 else {}
        # the shortest decimals that are this float32
        yield key, own, names, [float(str(share)) for share in shares]
