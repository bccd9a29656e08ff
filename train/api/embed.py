"""`turbomim.embed`: features of any images, as the command of that name writes them.

Suffixes: N images, D encoder width.
"""

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from turbomim import __version__
from turbomim.pipeline.decoding.centre_crops import CentreCrop
from turbomim.pipeline.image_source import open_source
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.system.open_files import raise_limit
from turbomim.pipeline.tars.listings import BadImage
from turbomim.train.api.arguments import check_names
from turbomim.train.api.load import has_head, load
from turbomim.train.encoder.crop import crop_facts, own_crop, scored_crop
from turbomim.train.encoder.features import CLASS_TOKEN, POOLS, encode
from turbomim.train.encoder.row_files import file_to_write, write_arrays, write_left_out
from turbomim.train.encoder.rows import Make, rows_of
from turbomim.train.encoder.source import read_source
from turbomim.train.encoder.timm_features import timm_features, timm_size
from turbomim.train.models.classifier import Classifier
from turbomim.train.settings.config import Device
from turbomim.train.settings.dictionary import typed
from turbomim.train.settings.flags import check_least
from turbomim.train.world.distributed import choose_device

ENDINGS: Final = (".npz", ".safetensors")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedded:
    """Features of images, a row each, in the order of their source.

    keys: paths below the folder, or as the list has them; of shards, the keys there.  labels_N: -1 for none.
    classes: the name of each label, where known.  left_out: images without a row, each with path and reason.
    feature: what was read of the model.  notes: lines on the source, and on what a file did not tell.
    """

    keys: list[str]
    features_ND: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    classes: tuple[str, ...]
    left_out: list[BadImage]
    feature: str
    notes: list[str]

    def __repr__(self) -> str:
        count, width = self.features_ND.shape
        images = f"{count:,} images, {len(self.left_out):,} left out"
        return f"turbomim.Embedded: {images}, {width} features, {self.feature}"


def embed(
    model: nn.Module | str | PathLike[str],
    source: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    pool: Literal["mean", "cls"] = "mean",
    size: int | None = None,
    columns: str | None = None,
    skip: str | None = None,
    batch: int = 128,
    device: Device = "auto",
    console: Console | None = None,
    **settings: Any,
) -> Embedded:
    """Encode whole images, nothing masked, as `turbomim embed` does.

    Example:
        made = turbomim.embed("runs/mine", "photographs")
        print(made.features_ND.shape, made.keys[0])

    Args:
        model: A run's path or `turbomim.Run`, its newest checkpoint; a fine-tuning's; a file with a plain ViT
            (.safetensors, .pth); or a timm model in memory, as `turbomim.load` returns it, which is encoded
            by on its own device.
        source: A folder of images, or of a folder of images a class; a .csv, .tsv or .txt list; or shards.
        out: A file to write, .npz or .safetensors; None: none is written.
        pool: "mean" of the patch tokens, of a fine-tuning normalised as its head reads it; or "cls", the
            class token.  Both after the final norm.
        size: Pixels a side of the crop; the encoder's if None.  Another resamples its positions.
        columns: What a list's columns are called, "path=NAME,label=NAME".
        skip: Names in a folder to pass over, "PATTERN[,PATTERN]".
        batch: Images encoded at once: speed and memory alone.
        device: "auto", "cuda" or "cpu".
        console: Where the bar is drawn; standard output if None.
        **settings: What a file does not tell of its encoder: `**{"model.heads": 6}`.

    Returns:
        features_ND (N, D) float32 in memory, keys, labels_N (N,) int64, classes, left_out.

    Raises:
        UserError: There is no run, no checkpoint, no image, the model has no such feature, an image file
            changed while it was read, or the disk is full.
    """
    check_names(settings, embed, "model.")
    if pool not in POOLS:
        raise UsageError(f"pool {pool!r}: must be one of {', '.join(POOLS)}")
    place = file_to_write(out, ENDINGS)
    batch = typed("batch", batch, int)
    check_least(batch=(batch, 1))
    raise_limit()
    target = choose_device(device, 0)
    if not isinstance(model, nn.Module) and has_head(Path(model)):
        # its head's norm is of the mean: a plain ViT's is of every token
        model = load(model).to(target)
    if isinstance(model, nn.Module):
        if size is not None or settings:
            raise UsageError(
                "size and settings are of runs and files: timm's model.set_input_size resizes it"
            )
        target = next(model.parameters()).device
        made_by = _of_timm(model, POOLS[pool])
    else:
        made_by = _of_run(Path(model), POOLS[pool], size, settings)
        made_by.module.to(target)
    images = open_source(fspath(source), columns, skip)
    # of each part: a model may be trained with some of them frozen
    training = {part: part.training for part in made_by.module.modules()}
    made_by.module.eval()
    try:
        rows = rows_of(
            images, made_by.make, made_by.crop, batch=batch, device=target, out=place, console=console
        )
    finally:
        for part, before in training.items():
            part.training = before
    embedded = Embedded(
        keys=rows.keys,
        features_ND=rows.made[0],
        labels_N=rows.labels_N,
        classes=rows.classes,
        left_out=rows.left_out,
        feature=made_by.feature,
        notes=[*made_by.notes, *rows.notes],
    )
    if place is not None:
        facts = {**made_by.facts, "source": fspath(source), **crop_facts(made_by.crop)}
        _write(place, embedded, facts)
        write_left_out(place, embedded.left_out)
    return embedded


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Encoder:
    """What makes features of crops, and what a file says about it."""

    module: nn.Module
    make: Make
    crop: CentreCrop
    feature: str
    facts: dict[str, object]
    notes: list[str]


def _of_run(path: Path, kind: str, size: int | None, settings: dict[str, Any]) -> _Encoder:
    of = read_source(path, settings)
    if kind == CLASS_TOKEN and isinstance(of.model, Classifier):
        raise UsageError(
            f"--pool cls: the head of {path} reads the patch tokens, its class token learned nothing from "
            "the labels; give --pool mean"
        )
    if kind == CLASS_TOKEN and not of.model.prefix:
        raise UsageError(f"--pool cls: method {of.config.model.method} has no class token; give --pool mean")
    sized = of.at_size(size)
    model = sized.model

    def make(images_BHWC: Tensor) -> tuple[Tensor, ...]:
        return (encode(model, images_BHWC)[kind],)

    tuned = isinstance(model, Classifier)
    return _Encoder(
        module=model,
        make=make,
        crop=own_crop(sized.config),
        feature=f"{kind}, as the head reads it" if tuned else kind,
        facts=of.facts,
        notes=[
            line
            for line in (of.assumed, of.config.optim.averaged and f"by {of.config.optim.averaged}")
            if line
        ],
    )


def _of_timm(model: nn.Module, kind: str) -> _Encoder:
    size, features = timm_size(model), timm_features(model, kind)
    # what `turbomim.load` gave it, unless it was made for another size since
    brought: Any = getattr(getattr(model, "transform", None), "crop", None)
    own = isinstance(brought, CentreCrop) and brought.size == size
    return _Encoder(
        module=model,
        make=lambda images_BHWC: (features(images_BHWC),),
        crop=brought if own else scored_crop(size),
        feature=kind,
        facts={"model": type(model).__name__},
        notes=[],
    )


def _write(out: Path, embedded: Embedded, facts: dict[str, object]) -> None:
    """Write features, keys, labels (if any), classes (their names, if known) and made (JSON)."""
    made = {**facts, "features": embedded.feature, "turbomim": __version__}
    numbers: dict[str, NDArray[Any]] = {"features": embedded.features_ND}
    texts: dict[str, Any] = {"keys": embedded.keys, "made": made}
    if (embedded.labels_N >= 0).any():
        numbers["labels"] = embedded.labels_N
        texts |= {"classes": list(embedded.classes)} if embedded.classes else {}
    write_arrays(out, numbers, texts)
