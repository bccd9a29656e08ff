"""How fast are visible patches and targets made?  `python -m turbomim.benchmarks.bench_masked_patches`.

Ours, as the training step runs it (on a GPU the Triton kernel, on a CPU the compiled reference), against the
published form in plain torch: normalise, fft2, mask, ifft2, abs, normalise, patchify, gather.  Same batch,
alternating.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from turbomim.benchmarks.timing import alternate, report
from turbomim.kernels.masked_patches import Target, masked_patches
from turbomim.kernels.masking import random_masking
from turbomim.train.config import IMAGENET_MEAN, IMAGENET_STD

SIZE, PATCH, PATCHES, KEEP, RADIUS = 224, 16, 196, 49, 40.0


def published(images_BHWC: Tensor, keep_BK: Tensor, mask_BM: Tensor) -> tuple[Tensor, Tensor]:
    """PixMIM's published order of operations, eager: visible patches and targets of the masked ones."""
    mean, std = (
        torch.tensor(v, device=images_BHWC.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD)
    )
    x_BCHW = (images_BHWC.permute(0, 3, 1, 2).float() / 255 - mean) / std
    axis = torch.arange(SIZE, device=images_BHWC.device) - (SIZE - 1) / 2
    disc = (axis[:, None] ** 2 + axis[None, :] ** 2 <= RADIUS**2).float()
    spectrum = torch.fft.fftshift(torch.fft.fft2(x_BCHW * std + mean), dim=(-2, -1))
    low_BCHW = (torch.fft.ifft2(spectrum * disc).abs() - mean) / std
    visible_BNP, target_BNP = patchify(x_BCHW), patchify(low_BCHW)
    visible_BKP = visible_BNP.gather(1, keep_BK[..., None].expand(-1, -1, visible_BNP.shape[-1]))
    variance, average = torch.var_mean(target_BNP, dim=-1, keepdim=True)
    target_BNP = (target_BNP - average) / (variance + 1e-6).sqrt()
    return visible_BKP, target_BNP.gather(1, mask_BM[..., None].expand(-1, -1, target_BNP.shape[-1]))


def patchify(x_BCHW: Tensor) -> Tensor:
    """All patches (B, N, P) in (row, column, channel) order."""
    side = SIZE // PATCH
    cells = x_BCHW.reshape(len(x_BCHW), 3, side, PATCH, side, PATCH)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(len(x_BCHW), PATCHES, -1)


def ours(target: Target, images_BHWC: Tensor, keep_BK: Tensor, mask_BM: Tensor) -> tuple[Tensor, Tensor]:
    """What the training step calls."""
    return masked_patches(
        images_BHWC,
        keep_BK,
        mask_BM,
        patch=PATCH,
        target=target,
        radius=RADIUS,
        norm_pix=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        dtype=torch.float32,
    )


def main() -> None:
    """Print one JSON line a target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images_BHWC = torch.randint(0, 256, (options.batch, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    ids = torch.arange(options.batch, device=device)
    keep_BK, mask_BM = random_masking(0, ids * 0, ids, PATCHES, KEEP)
    # one compiled function a target: together they would share one cache of graphs
    targets: tuple[Target, ...] = ("raw", "gaussian", "ideal")
    functions: dict[str, Callable[[], object]] = {
        name: functools.partial(
            torch.compile(functools.partial(ours, name), fullgraph=True), images_BHWC, keep_BK, mask_BM
        )
        for name in targets
    }
    baseline = functools.partial(published, images_BHWC, keep_BK, mask_BM)
    difference = (ours("ideal", images_BHWC, keep_BK, mask_BM)[1] - baseline()[1]).abs().max()
    assert difference < 1e-3, f"ours and the published form differ by {difference}"
    seconds = alternate({"published": baseline, **functions}, options.rounds)
    # every input byte once, every output byte once
    values = PATCH * PATCH * 3
    floor = SIZE * SIZE * 3 + PATCHES * values * 4
    for name, measured in seconds.items():
        print(
            report(
                name, measured, options.batch, seconds["published"], batch=options.batch, floor_bytes=floor
            )
        )


if __name__ == "__main__":
    main()
