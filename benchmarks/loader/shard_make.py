"""How many images a second does a core pack?  `python -m turbomim.benchmarks.loader.shard_make`.

Every store, against plain Pillow: open, convert to RGB, resize, save.  One process on one core, alternating.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from turbomim.benchmarks.timing import alternate, report
from turbomim.pipeline.making.image_file import RefusedImage, read_image
from turbomim.pipeline.making.photographs import Photographs
from turbomim.pipeline.making.plan import Plan, find_source, plan_jobs
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.making.shard_job import pack_shard

SETTINGS = {
    "original": ShardSettings(),
    "resized": ShardSettings(store="resized"),
    "raw": ShardSettings(store="raw"),
    "original, every pixel checked": ShardSettings(check="full"),
}


def pillow(found: Photographs) -> int:
    """What a plain script does for the resized store; gives the bytes of all images."""
    size = 0
    for photograph in found.images:
        with Image.open(Path(found.root, photograph.path)) as opened:
            image = opened.convert("RGB")
        width, height = (side * 224 // min(image.size) for side in image.size)
        out = io.BytesIO()
        image.resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95, subsampling=0)
        size += out.tell()
    return size


def pack(found: Photographs, folder: Path, settings: ShardSettings) -> None:
    """Pack all images into one shard."""
    one = replace(settings, shard_size=len(found.images))
    for job in plan_jobs(Plan(name="bench", settings=one, found=found, made={}), str(folder)):
        pack_shard(job)


def readable(found: Photographs, most: int) -> Photographs:
    """Some of the images, those that Pillow opens."""
    images = []
    for image in found.images[:: max(1, len(found.images) // most)][:most]:
        try:
            read_image(found.root, image, 32)
        except RefusedImage:
            continue
        images.append(image)
    return replace(found, images=tuple(images))


def main() -> None:
    """Print one JSON line a store, and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of images, or a list")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="where shards go; /dev/shm leaves the disk out of it")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = readable(find_source(options.images, None), options.count)
    folder = Path(tempfile.mkdtemp(dir=options.scratch))
    try:
        functions: dict[str, Callable[[], object]] = {"pillow resized": functools.partial(pillow, found)}
        for name, settings in SETTINGS.items():
            functions[name] = functools.partial(pack, found, folder, settings)
        seconds = alternate(functions, options.rounds)
    finally:
        shutil.rmtree(folder)
    images = len(found.images)
    for name, measured in seconds.items():
        print(report(name, measured, images, seconds["pillow resized"], pictures=images))
    print("\n| store | img/s a core | times Pillow |\n|---|---|---|")
    for name, measured in seconds.items():
        ratios = [base / own for base, own in zip(seconds["pillow resized"], measured, strict=True)]
        print(f"| {name} | {images / statistics.median(measured):,.0f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
