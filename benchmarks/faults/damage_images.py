"""What becomes of an odd or damaged image: Pillow, torchvision, DALI as it is, our sharding, our loader.

    python -m turbomim.benchmarks.faults.damage_images [--out FILE]

Prints a markdown table and writes a JSON line a cell.  A reader decodes an image as it should be, says that
it cannot, or is silently wrong.  Each runs in a process of its own, so that a crash costs one cell.
"""

# DALI does not type its Pipeline
# mypy: allow-untyped-calls

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Final

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from turbomim.benchmarks.faults.image_kinds import Kind, by_pillow, encode, kinds, photograph
from turbomim.benchmarks.tables import markdown_table
from turbomim.benchmarks.timing import machine
from turbomim.benchmarks.write_split import write_split
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
from turbomim.pipeline.making.image_file import RefusedImage, read_image
from turbomim.pipeline.making.photographs import find_photographs
from turbomim.pipeline.stream.turns import BatchCut, SampleStream
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split

# mean difference in grey levels up to which pixels are the right ones: decoders round differently
SAME: Final = 1.5
# bytes of address space of a reader: a bomb must not take the machine with it
MEMORY: Final = 30 * 2**30

DECODED, WRONG, ALLOCATED, CRASH = "decoded", "silently wrong", "allocated", "crash"


def judge(kind: Kind, pixels: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    """Compare what a reader gave with what it should have given."""
    if kind.pixels is None:
        return (
            f"{ALLOCATED} {pixels.nbytes / 1e9:.1f} GB" if pixels.nbytes > 1e9 else f"{WRONG}: other pixels"
        )
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        return f"{WRONG}: {pixels.ndim}-D {pixels.dtype}"
    if pixels.shape == (*kind.pixels.shape[1::-1], 3) and pixels.shape != kind.pixels.shape:
        return f"{WRONG}: rotated"
    if pixels.shape != kind.pixels.shape:
        return f"{WRONG}: {pixels.shape}"
    difference = np.abs(pixels.astype(float) - kind.pixels).mean()
    return DECODED if difference <= SAME else f"{WRONG}: off by {difference:.0f} levels"


def pillow(kind: Kind) -> str:
    """Read as a Dataset usually does."""
    try:
        return judge(kind, by_pillow(kind.content))
    except Exception as error:
        return f"error: {type(error).__name__}"


def torchvision(kind: Kind) -> str:
    """Read by `torchvision.io.decode_image`."""
    content = torch.frombuffer(bytearray(kind.content or b" "), dtype=torch.uint8)[: len(kind.content)]
    try:
        pixels = decode_image(content, mode=ImageReadMode.RGB)
    except Exception as error:
        return f"error: {type(error).__name__}"
    return judge(kind, pixels.movedim(-3, -1).numpy())


def dali(kind: Kind) -> str:
    """Read by `fn.decoders.image` as it comes, in a batch with a whole image."""
    pipeline = Pipeline(batch_size=2, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(fn.decoders.image(fn.external_source(name="images")))
    pipeline.build()
    contents = (kind.content, encode(Image.fromarray(photograph())))
    try:
        pipeline.feed_input("images", [np.frombuffer(content, np.uint8) for content in contents])
        (images,) = pipeline.run()
    except RuntimeError:
        return "error: the batch is lost"
    return judge(kind, np.asarray(images[0]))


def sharding(kind: Kind) -> str:
    """Offer the file to `turbomim shard make`, which decodes nothing by default."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "any.jpg").write_bytes(kind.content)
        try:
            taken = read_image(folder, find_photographs(Path(folder)).images[0], min_side=1)
        except RefusedImage as refused:
            return f"refused: {refused}"
    return f"taken as {taken.extension}"


def loading(kind: Kind) -> str:
    """Let the loader meet the image in a shard that another tool made."""
    whole = encode(Image.fromarray(photograph()), "PNG")
    expected = whole if kind.pixels is None else encode(Image.fromarray(kind.pixels), "PNG")
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = _first(write_split(Path(folder, "found"), [kind.content, whole]), lines)
        except UserError as error:
            # where it lies is of no interest here
            return f"stopped: {str(error).partition(': ')[2]}"
        right = _first(write_split(Path(folder, "right"), [expected, whole]), lines)
    if lines:
        return "replaced: " + lines[0].partition("(")[2].partition("): replaced")[0]
    crop, wanted = (batch.images_BHWC[0].numpy() for batch in (found, right))
    return judge(Kind(name=kind.name, content=b"", pixels=wanted if kind.pixels is not None else None), crop)


def _first(split: Split, lines: list[str]) -> Batch:
    """Give the batch that begins with sample 0."""
    crop = Crop(kind="rrc", size=48, scale=1.0)
    stream = SampleStream(seed=0, cut=BatchCut(global_batch=1, micro_batch=1))
    speed = LoaderSpeed(threads=1, readers=1, prefetch=1)
    with Loader(split, crop, stream, speed, BadSampleLimits(), notify=lines.append) as loader:
        return next(batch for batch in loader if batch.ids_B[0] == 0)


READERS: Final[dict[str, Callable[[Kind], str]]] = {
    "Pillow": pillow,
    "torchvision": torchvision,
    "DALI": dali,
    "ours, sharding": sharding,
    "ours, loader": loading,
}


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def read_all(reader: Callable[[Kind], str], files: list[Kind]) -> Iterator[str]:
    """Give what becomes of each file, from another process; a new one after each crash."""
    waiting = list(files)
    while waiting:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=_limit_memory) as pool:
            try:
                while waiting:
                    yield pool.submit(reader, waiting[0]).result()
                    waiting.pop(0)
            except BrokenProcessPool:
                yield CRASH
                waiting.pop(0)


def markdown(names: list[str], cells: dict[str, list[str]]) -> str:
    """Write the table, what is silently wrong in bold."""
    rows = [["image", *cells]]
    for name, *verdicts in zip(names, *cells.values(), strict=True):
        bad = (WRONG, ALLOCATED, CRASH)
        bold = (f"**{verdict}**" if verdict.startswith(bad) else verdict for verdict in verdicts)
        rows.append([name, *bold])
    return markdown_table(rows, words=len(rows[0]))


def main() -> None:
    """Read every kind by every reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("damage_images.jsonl"), help="where JSON lines go")
    out = parser.parse_args().out
    files, facts = kinds(), machine()
    cells = {name: list(read_all(reader, files)) for name, reader in READERS.items()}
    with out.open("w") as lines:
        for reader, verdicts in cells.items():
            for kind, verdict in zip(files, verdicts, strict=True):
                line = {"name": "damage_images", "image": kind.name, "reader": reader, "verdict": verdict}
                print(json.dumps({**line, **facts}), file=lines)
    print(markdown([kind.name for kind in files], cells))


if __name__ == "__main__":
    main()
