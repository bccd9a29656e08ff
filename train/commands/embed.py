"""`turbomim embed`: what a run's frozen encoder makes of any images, one row each, in a file.

Suffixes: N images, D encoder width.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console

from turbomim import __version__
from turbomim.pipeline.making.photographs import Photographs, describe_others
from turbomim.pipeline.system.durable import check_space, durable_file, make_folder_of, write_durably
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.tars.listings import BadImage
from turbomim.train.machine.processor import cores
from turbomim.train.settings.flags import check_least, parse_with_settings
from turbomim.train.settings.options import CropSize, EncoderPath, EncodingBatch, EncodingDevice
from turbomim.train.terminal.progress import ImageProgress, image_bar
from turbomim.train.terminal.streams import print_plain

if TYPE_CHECKING:
    from turbomim.pipeline.image_source import Source
    from turbomim.train.models.classifier import Encoder
    from turbomim.train.settings.config import Config

ENDINGS = (".npz", ".safetensors")
# bytes, as JSON in the header of a safetensors file, which may have 100,000,000
MOST_KEYS = 90_000_000


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the features of whole images, nothing masked, in the order of their source."""

    run: EncoderPath
    source: tyro.conf.Positional[str]
    """Folder of images, or of a folder of images a class, or a list as `shard make` takes, or a folder of
    shards."""
    out: Path
    """File to write, .npz or .safetensors."""
    columns: str | None = None
    """What a list's columns are called, path=NAME,label=NAME; by their usual names if not given."""
    skip: str | None = None
    """Names in a folder to pass over, PATTERN[,PATTERN], beside hidden ones, @eaDir, __MACOSX and such."""
    pool: Literal["mean", "cls"] = "mean"
    """Mean of the patch tokens, or the class token, both after the final norm."""
    size: CropSize = None
    batch: EncodingBatch = 128
    device: EncodingDevice = "auto"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedded:
    """Features (N, D) float32, keys and labels (N,) int64, -1 for none, of images; what was left out."""

    keys: list[str]
    features_ND: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    left_out: list[BadImage]


def embed_command(argv: list[str]) -> None:
    """`turbomim embed RUN|FILE SOURCE --out FILE`.  Raises UserError."""
    options, settings = parse_with_settings(Embed, argv, "turbomim embed")
    if options.out.suffix not in ENDINGS or options.out.is_dir():
        raise UsageError(f"--out {options.out}: must be a file whose name ends in {' or '.join(ENDINGS)}")
    check_least(batch=(options.batch, 1))
    # here, as in the functions below: they import torch, which --help need not wait for
    from turbomim.pipeline.image_source import open_source, source_classes
    from turbomim.train.encoder.crop import crop_facts
    from turbomim.train.encoder.features import POOLS
    from turbomim.train.encoder.source import load_source
    from turbomim.train.models.classifier import Classifier
    from turbomim.train.world.distributed import choose_device

    of = load_source(options.run, settings)
    if options.pool == "cls" and isinstance(of.model, Classifier):
        raise UsageError(
            f"--pool cls: the head of {options.run} reads the patch tokens, its class token learned nothing "
            "from the labels; give --pool mean"
        )
    if options.pool == "cls" and not of.model.prefix:
        raise UsageError(f"--pool cls: method {of.config.model.method} has no class token; give --pool mean")
    sized = of.at_size(options.size)
    config, model = sized.config, sized.model
    source = open_source(options.source, options.columns, options.skip)
    make_folder_of(options.out)
    made = {
        **of.facts, "source": str(options.source), **crop_facts(config.data.size),
        "features": POOLS[options.pool], "turbomim": __version__,
    }  # fmt: skip
    device = choose_device(options.device, 0)
    console = Console()
    with image_bar(console) as bar:
        embedded = embed(config, model.to(device).eval(), source, options, bar)
    write_embedded(options.out, embedded, source_classes(source), made)
    print_plain(console, what_was_written(options, embedded, source))


def embed(config: Config, model: Encoder, source: Source, options: Embed, bar: ImageProgress) -> Embedded:
    """Encode every image of a source, but for those that cannot be decoded.  Raises UserError if none can."""
    import torch

    from turbomim.pipeline.image_source import source_crops, source_keys
    from turbomim.train.encoder.crop import scored_crop
    from turbomim.train.encoder.features import POOLS, encode

    keys = source_keys(source)
    check_header(keys, options.out)
    crops = source_crops(source, scored_crop(config.data.size), batch=options.batch, threads=cores())
    features_ND = np.empty((0, 0), np.float32)
    labels_N = np.full(len(keys), -1)
    kept: list[int] = []
    left_out = [*source.refused] if isinstance(source, Photographs) else []
    done = 0
    bar.show(0, len(keys))
    for some in crops:
        left_out += [BadImage(path=keys[place], reason=reason) for place, reason in some.faults]
        if len(some.places_B):
            images_BHWC = torch.from_numpy(some.images_BHWC).to(next(model.parameters()).device)
            features_BD = encode(model, images_BHWC)[POOLS[options.pool]].cpu().numpy()
            if not kept:
                check_space(options.out.parent, len(keys) * features_BD[0].nbytes)
                # pages that nothing is written to are not taken
                features_ND = np.empty((len(keys), features_BD.shape[1]), np.float32)
            rows = slice(len(kept), len(kept) + len(features_BD))
            features_ND[rows], labels_N[rows] = features_BD, some.labels_B
            kept += some.places_B.tolist()
        done += len(some.places_B) + len(some.faults)
        bar.show(done, len(keys))
    if not kept:
        first = f": the first is {left_out[0].path!a}, {left_out[0].reason}" if left_out else ""
        raise UserError(f"{options.source} has no image that can be encoded{first}")
    return Embedded(
        keys=[keys[place] for place in kept],
        features_ND=features_ND[: len(kept)],
        labels_N=labels_N[: len(kept)],
        left_out=left_out,
    )


def check_header(keys: list[str], out: Path) -> None:
    """Raise UsageError if a safetensors file cannot hold so many keys."""
    size = len(json.dumps(json.dumps(keys))) if out.suffix == ".safetensors" else 0
    if size > MOST_KEYS:
        raise UsageError(
            f"--out {out}: {len(keys):,} keys take {size:,} bytes of its header, the limit is {MOST_KEYS:,}: "
            "give a name ending in .npz"
        )


def write_embedded(out: Path, embedded: Embedded, classes: tuple[str, ...], made: dict[str, Any]) -> None:
    """Write the file, whole or not at all, and beside it the list of what was left out, if anything was.

    An npz has arrays keys, features, labels (if any), classes (their names, if known) and made (JSON); a
    safetensors file the tensors features and labels, and keys, classes and made as JSON in its metadata.
    """
    make_folder_of(out)
    listing = left_out_path(out)
    if embedded.left_out:
        lines = [
            json.dumps({"key": image.path, "reason": image.reason}) + "\n" for image in embedded.left_out
        ]
        write_durably(listing, "".join(lines).encode())
    else:
        listing.unlink(missing_ok=True)
    numbers: dict[str, NDArray[Any]] = {"features": embedded.features_ND}
    texts: dict[str, Any] = {"keys": embedded.keys, "made": made}
    if (embedded.labels_N >= 0).any():
        numbers["labels"] = embedded.labels_N
        texts |= {"classes": list(classes)} if classes else {}
    if out.suffix == ".npz":
        words = {key: np.array(value) for key, value in {**texts, "made": json.dumps(made)}.items()}
        with durable_file(out, needed=embedded.features_ND.nbytes) as file:
            save_npz(file, {**numbers, **words})
    else:
        import torch

        from turbomim.pipeline.system.safetensors_file import write_safetensors

        tensors = {name: torch.from_numpy(array) for name, array in numbers.items()}
        write_safetensors(out, tensors, {key: json.dumps(value) for key, value in texts.items()})


def save_npz(file: BinaryIO, arrays: dict[str, NDArray[Any]]) -> None:
    """Write what numpy.savez does: that one leaves its archive open on a full disk, and complains later."""
    # numpy 2.0 has no annotation of it
    write: Callable[..., None] = np.lib.format.write_array
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write(member, array, allow_pickle=False)


def left_out_path(out: Path) -> Path:
    """Where the images are named that the file has no row of."""
    return out.with_name(f"{out.name}.left-out.jsonl")


def what_was_written(options: Embed, embedded: Embedded, source: Source) -> str:
    """What was written and what was left out, in lines."""
    from turbomim.train.encoder.features import POOLS

    count, width = embedded.features_ND.shape
    lines = [f"{options.out}: {count:,} x {width} float32, {POOLS[options.pool]}"]
    if embedded.left_out:
        first = embedded.left_out[0]
        lines.append(
            f"left out: {len(embedded.left_out):,} images, named in {left_out_path(options.out)}; "
            f"first: {first.path!a}, {ascii(first.reason)[1:-1]}"
        )
    if isinstance(source, Photographs):
        lines += source.notes
        if source.other_files:
            lines.append(f"not images by their names: {describe_others(source.other_files, most=20)}")
    return "\n".join(lines)
