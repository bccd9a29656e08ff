"""What does resizing first cost?  `python -m turbomim.benchmarks.loader.fidelity --images FOLDER`.

The same samples with the same crops out of shards with original bytes and with resized ones: the difference
of the pixels (PSNR) and of the targets that a model would be trained on, and the bytes on the disk.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from turbomim.benchmarks.timing import machine
from turbomim.kernels.masked_patches import targets_of_whole_images
from turbomim.kernels.patch_target import PatchTarget, TargetKind
from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.loader import Loader
from turbomim.pipeline.loader_settings import BadSampleLimits, LoaderSpeed
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.stream.turns import BatchCut, SampleStream
from turbomim.pipeline.tars.split import open_split
from turbomim.pipeline.tars.store import SUBSAMPLINGS
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD

SIZE, PATCH, RADIUS, BATCH = 224, 16, 40.0, 50
IMAGENET_SAMPLES = 1_281_167
TARGETS: tuple[TargetKind, ...] = ("raw", "gaussian", "ideal")


def variants() -> list[ShardSettings]:
    """The stores that are compared with original bytes."""
    resized = [
        ShardSettings(store="resized", short_side=SIZE, quality=quality, subsampling=subsampling)
        for subsampling in SUBSAMPLINGS
        for quality in (90, 95, 98)
    ]
    return [*resized, ShardSettings(store="raw", short_side=SIZE)]


def batches(folder: Path, samples: int) -> list[Tensor]:
    """The first epoch's crops, in order: (B, S, S, 3) uint8 each."""
    stream = SampleStream(seed=0, cut=BatchCut(global_batch=BATCH, micro_batch=BATCH))
    speed = LoaderSpeed(threads=2, readers=1)
    with Loader(open_split(folder), Crop(size=SIZE), stream, speed, BadSampleLimits()) as loader:
        return [next(loader).images_BHWC.clone() for _ in range(samples // BATCH)]


def targets(images_BHWC: Tensor, target: TargetKind) -> Tensor:
    """The patch-normalised targets of every patch, (B, N, P): variance 1 in each patch."""
    wanted = PatchTarget(
        patch=PATCH, kind=target, radius=RADIUS, norm_pix=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    return targets_of_whole_images(images_BHWC, wanted)[0]


def compare(original: list[Tensor], stored: list[Tensor]) -> dict[str, float]:
    """PSNR of the crops in dB (median, 5th percentile), and mean squared difference of the targets."""
    squares = torch.cat(
        [((a.float() - b.float()) ** 2).flatten(1).mean(1) for a, b in zip(original, stored, strict=True)]
    )
    psnr = 10 * torch.log10(255**2 / squares.clamp_min(1e-3))
    figures = {"psnr_db_p50": psnr.median().item(), "psnr_db_p5": psnr.quantile(0.05).item()}
    for target in TARGETS:
        errors = [
            (targets(a, target) - targets(b, target)).square().mean().item()
            for a, b in zip(original, stored, strict=True)
        ]
        figures[f"mse_{target}"] = sum(errors) / len(errors)
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def name_of(settings: ShardSettings) -> str:
    """What a row of the table is called."""
    if settings.store == "resized":
        return f"resized, quality {settings.quality}, {settings.subsampling}"
    return settings.store


def main() -> None:
    """Make every variant in a temporary folder, compare, print JSON lines and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs, an ImageFolder")
    parser.add_argument("--samples", type=int, default=1000, help="photographs compared")
    options = parser.parse_args()
    lines: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        original: list[Tensor] = []
        for place, settings in enumerate([ShardSettings(), *variants()]):
            folder = Path(temporary, str(place))
            manifest = make_shards(
                options.images, folder, replace(settings, name="photos"), workers=2
            ).manifest
            # the first epoch is a permutation of all samples: equal for equal numbers of samples
            samples = min(options.samples, manifest.samples) // BATCH * BATCH
            stored = batches(folder, samples)
            original = original or stored
            line: dict[str, object] = {
                "name": name_of(settings),
                "samples": samples,
                "gb_per_imagenet": round(manifest.bytes / manifest.samples * IMAGENET_SAMPLES / 1e9, 1),
                **compare(original, stored),
            }
            lines.append(line)
            print(json.dumps({**line, **machine()}), flush=True)
    print(table(lines))


def table(lines: list[dict[str, object]]) -> str:
    """The lines as markdown."""
    head = (
        "| store | PSNR, dB: median (5 %) | target's squared error: raw | Gaussian | ideal | GB per 1.28 M |"
    )
    rows = [head, "| --- " * 6 + "|"]
    for line in lines:
        psnr = f"{line['psnr_db_p50']} ({line['psnr_db_p5']})" if line["name"] != "original" else "same"
        errors = " | ".join(str(line[f"mse_{target}"]) for target in TARGETS)
        rows.append(f"| {line['name']} | {psnr} | {errors} | {line['gb_per_imagenet']} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
