"""What does the walk over an image's container cost?  µs of CPU an image, beside decoding it.

    python -m turbomim.benchmarks.faults.walk [--images FOLDER]

FOLDER: of JPEGs; without it, made pictures of 500 x 375.  PNG and WebP are made of the same pixels.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from turbomim.benchmarks.timing import machine
from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.decode import decode
from turbomim.pipeline.decoding.header import check_header
from turbomim.pipeline.making.photographs import find_photographs

REPEATS = 20


def main() -> None:
    """Walk and decode them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=64)
    options = parser.parse_args()
    if options.images is None:
        pictures = [Image.fromarray(texture(seed, 375, 500)) for seed in range(options.count)]
    else:
        paths = [photograph.path for photograph in find_photographs(options.images).images][: options.count]
        pictures = [Image.open(options.images / path).convert("RGB") for path in paths]
    for form in ("JPEG", "PNG", "WEBP"):
        contents = []
        for picture in pictures:
            buffer = io.BytesIO()
            picture.save(buffer, form, quality=95)
            contents.append(np.frombuffer(buffer.getvalue(), np.uint8))
        begun = time.process_time()
        for _ in range(REPEATS):
            for content in contents:
                check_header(content)
        walked = time.process_time()
        for content in contents:
            decode(content)
        row = {
            "name": "bench_walk", "format": form, "images": len(contents),
            "walk_us": round((walked - begun) / REPEATS / len(contents) * 1e6, 2),
            "decode_us": round((time.process_time() - walked) / len(contents) * 1e6),
        }  # fmt: skip
        print(json.dumps({**row, **machine()}))


if __name__ == "__main__":
    main()
