"""Splits out of any bytes, and of made pictures: what needs neither DALI nor photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.ppm import ppm_bytes
from turbomim.pipeline.tars.index import index_text
from turbomim.pipeline.tars.manifest import MANIFEST, Manifest, Shard, fingerprint_of
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.pipeline.tars.store import Store
from turbomim.pipeline.tars.tar import BLOCK, tar_end, tar_member


def write_split(
    folder: Path, images: Iterable[bytes], extension: str = "jpg", store: object = "original"
) -> Split:
    """Write a split of one shard, whatever its images are; labels are 0, 1, 2 and so on."""
    members, lines = b"", []
    for label, content in enumerate(images):
        fields = []
        for form, data in (("cls", str(label).encode()), (extension, content)):
            fields.append(f"{form} {len(members) + BLOCK} {len(data)} {label:06d}.{form}")
            members += tar_member(f"{label:06d}.{form}", data)
        lines.append(" ".join(fields))
    tar = members + tar_end(len(members))
    digest = hashlib.sha256(tar).hexdigest()
    shards = (Shard(name="any-train-000000.tar", samples=len(lines), bytes=len(tar), sha256=digest),)
    manifest = Manifest(
        name="any",
        split="train",
        shards=shards,
        classes=tuple(str(label) for label in range(len(lines))),
        fingerprint=fingerprint_of(shards),
        made={"by": "benchmarks", "store": store},
    )
    folder.mkdir(parents=True)
    (folder / shards[0].name).write_bytes(tar)
    (folder / shards[0].name).with_suffix(".idx").write_bytes(index_text(lines))
    (folder / MANIFEST).write_text(manifest.to_json())
    return open_split(folder)


def write_raw_split(folder: Path, *, images: int, side: int) -> Split:
    """Write a raw store of made pictures with this short side: the simple crop decodes and resizes none."""
    store = Store(kind="raw", short_side=side, resampling="bicubic").to_json()
    pictures = (texture(number, side, side * 4 // 3) for number in range(images))
    return write_split(folder, map(ppm_bytes, pictures), "ppm", store)


def texture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth colour waves with some noise, (H, W, 3): compresses as photographs do, no two alike."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    frequency, phase = random.uniform(0.02, 0.4, (2, 3)), random.uniform(0, 6, 3)
    waves = np.sin(y[..., None] * frequency[0] + x[..., None] * frequency[1] + phase)
    noisy = 128 + 80 * waves + random.normal(0, 8, waves.shape)
    pixels: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels
