"""`turbomim.random_masking`, `masked_patches` and `low_pass`: what the training does, by plain arguments.

Planted: ids before epochs in `random_masking`, which fails `test_masks_are_those_of_training`; float images
taken by `low_pass` without a word, which fails `test_what_does_not_fit`.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import turbomim
from turbomim.kernels import masking
from turbomim.kernels.masked_patches import masked_patches
from turbomim.kernels.patch_target import PatchTarget

SIZE, PATCH = 32, 8
EPOCHS, IDS = torch.full((4,), 3), torch.tensor([7, 8, 9, 2**40])


@pytest.fixture
def images() -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    return torch.from_numpy(pixels)


def test_masks_are_those_of_training() -> None:
    masks = turbomim.random_masking(EPOCHS, IDS, patches=16, ratio=0.75, seed=5)
    for ours, theirs in zip(masks, masking.random_masking(5, EPOCHS, IDS, 16, 4), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(torch.cat(masks, 1).sort(1).values, torch.arange(16).expand(4, -1))


@pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"])
def test_patches_are_those_of_training(images: Tensor, target: Any) -> None:
    masks = turbomim.random_masking(EPOCHS, IDS, patches=16)
    found = turbomim.masked_patches(images, *masks, patch=PATCH, target=target, radius=6, norm_pix=False)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    what = PatchTarget(patch=PATCH, kind=target, radius=6.0, norm_pix=False, mean=mean, std=std)
    for ours, theirs in zip(found, masked_patches(images, *masks, what, dtype=torch.float32), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["gaussian", "ideal"])
def test_a_low_passed_image_is_the_target_as_a_whole(images: Tensor, kind: Any) -> None:
    every = torch.arange(16).expand(4, -1).contiguous()
    plain: dict[str, Any] = {"norm_pix": False, "mean": (0, 0, 0), "std": (1, 1, 1)}
    _, target = turbomim.masked_patches(images, every, every, patch=PATCH, target=kind, radius=6, **plain)
    smooth = turbomim.low_pass(images, radius=6, kind=kind)
    assert smooth.shape == images.shape and smooth.dtype == torch.float32
    cells = smooth.reshape(4, 4, PATCH, 4, PATCH, 3).permute(0, 1, 3, 2, 4, 5).reshape(4, 16, -1)
    torch.testing.assert_close(cells, target, rtol=0, atol=1e-6)


def test_a_wave_keeps_what_the_docstring_says() -> None:
    """exp(-f² / (2 radius²)) of a wave of f cycles, by the blur; all or nothing, by the disc."""
    row = torch.cos(2 * torch.pi * torch.arange(224) * 20 / 224)
    image = (127.5 + 100 * row).round().byte()[None, None, :, None].expand(1, 224, 224, 3).contiguous()

    def kept(**how: Any) -> float:
        found = turbomim.low_pass(image, **how)[0, 112, 60:164, 0] - 0.5
        return float(found.std() / (image[0, 112, 60:164, 0] / 255).std())

    assert abs(kept(radius=20) - np.exp(-0.5)) < 0.01
    assert abs(kept(radius=30, kind="ideal") - 1) < 0.01
    assert kept(radius=15, kind="ideal") < 0.02


def test_what_does_not_fit(images: Tensor) -> None:
    masks = turbomim.random_masking(EPOCHS, IDS, patches=16)
    for bad in (images.float() / 255, images.permute(0, 3, 1, 2), images[:, :16]):
        with pytest.raises(ValueError, match="give square uint8 RGB"):
            turbomim.low_pass(bad, radius=6)
        with pytest.raises(ValueError, match="give square uint8 RGB"):
            turbomim.masked_patches(bad, *masks, patch=PATCH)
    with pytest.raises(ValueError, match='kind is "raw"'):
        turbomim.low_pass(images, radius=6, kind="raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"more than .* cycles"):
        turbomim.low_pass(images, radius=0.1)
    turbomim.masked_patches(images, *masks, patch=PATCH, radius=24)
    with pytest.raises(ValueError, match="give three"):
        turbomim.masked_patches(images, *masks, patch=PATCH, mean=(0.5,))
    with pytest.raises(ValueError, match="ratio is 1"):
        turbomim.random_masking(EPOCHS, IDS, patches=16, ratio=1)


@pytest.mark.parametrize(("kind", "highest"), [("gaussian", 22.6), ("ideal", 21.9)])
def test_a_radius_that_filters_nothing_is_refused(images: Tensor, kind: Any, highest: float) -> None:
    masks = turbomim.random_masking(EPOCHS, IDS, patches=16)
    turbomim.low_pass(images, radius=highest, kind=kind)
    with pytest.raises(ValueError, match=f"waves of up to {highest} cycles, so nothing would be filtered"):
        turbomim.low_pass(images, radius=highest + 0.1, kind=kind)
    with pytest.raises(ValueError, match="nothing would be filtered"):
        turbomim.masked_patches(images, *masks, patch=PATCH, target=kind, radius=24)


@pytest.mark.parametrize("ratio", [75, 1, 0, -0.5])
def test_a_ratio_that_leaves_or_removes_nothing_is_named(ratio: float) -> None:
    ids_B = torch.arange(2)
    with pytest.raises(ValueError, match=f"^ratio is {ratio}: of 196 patches"):
        turbomim.random_masking(ids_B, ids_B, ratio=ratio)
