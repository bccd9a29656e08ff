"""`turbomim.random_masking`, `masked_patches` and `low_pass`: the kernels for models and images of one's own.

Suffixes: B batch, H W pixels (H == W == S), C channels, N patches, K kept, M masked (N - K), P values of a
patch (p * p * 3, in row, column, channel order).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from turbomim.kernels import masked_patches as kernel
from turbomim.kernels import masking
from turbomim.kernels.ideal import ideal_ref
from turbomim.kernels.lowpass import gaussian_ref
from turbomim.kernels.patch_target import PatchTarget, TargetKind, highest_frequency
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD


def random_masking(
    epochs_B: Tensor, ids_B: Tensor, *, patches: int = 196, ratio: float = 0.75, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Choose at random which patches of each image stay visible, and which are removed.

    The choice is a pure function of seed, epoch and id: no generator, and nothing to save.

    Example:
        ids_keep, ids_mask = turbomim.random_masking(batch.epochs_B, batch.ids_B, patches=14 * 14)

    Args:
        epochs_B: (B,) int64, as `batch.epochs_B`; of images of your own any number that changes, as the step:
            torch.full((B,), step).
        ids_B: (B,) int64, as `batch.ids_B`; of images of your own any numbers that differ: torch.arange(B).
        patches: Patches of an image, N: (size // patch) ** 2.
        ratio: Share of the patches that is removed; int(N * (1 - ratio)) stay visible.
        seed: 0 to 2**63 - 1.

    Returns:
        ids_keep (B, K) and ids_mask (B, M), int64 on the device of ids_B: row-major patch numbers, in
        shuffled order.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit, or no patch would stay, or none be removed.
    """
    keep = int(patches * (1 - ratio))
    if not 0 < keep < patches:
        raise ValueError(
            f"ratio is {ratio}: of {patches} patches {keep} would stay visible; choose a share between 0 and "
            "1 by which at least one stays and one is removed"
        )
    return masking.random_masking(seed, epochs_B, ids_B, patches, keep)


def masked_patches(
    images_BHWC: Tensor,
    ids_keep_BK: Tensor,
    ids_mask_BM: Tensor,
    *,
    patch: int = 16,
    target: TargetKind = "raw",
    radius: float = 40.0,
    norm_pix: bool = True,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Cut images into the encoder's visible patches, and the targets that a decoder must predict.

    On a GPU one fused kernel does both, and no float image is made.

    Example:
        masks = turbomim.random_masking(batch.epochs_B, batch.ids_B, patches=14 * 14, ratio=0.75)
        visible, target = turbomim.masked_patches(batch.images_BHWC, *masks, target="gaussian", radius=40)

    Args:
        images_BHWC: (B, S, S, 3) uint8 RGB, contiguous.
        ids_keep_BK, ids_mask_BM: (B, K) and (B, M) int64, row-major patch numbers in any order.
        patch: Pixels a side of a patch; it divides S.
        target: What is predicted: "raw", the pixels (MAE); "gaussian", low-passed by a blur (PixMIM here);
            "ideal", low-passed by a disc in frequency (PixMIM as published).
        radius: Cut-off of the low-pass filters, cycles per image; "raw" has none.
        norm_pix: Normalise each target patch by its own mean, and its own unbiased variance + 1e-6.
        mean, std: Of each channel in 0..1 units; visible patches and targets are normalised by them first.
        dtype: Of both results: float32, bfloat16 or float16; computed in float32.

    Returns:
        visible (B, K, P), never filtered, and target (B, M, P), on the device of the images.  A patch number
        outside the image gives a row of NaN.

    Raises:
        ValueError: Shapes, dtypes, devices or numbers do not fit, or the radius is so large that it would
            filter nothing.
    """
    if target != "raw":
        _check_radius(images_BHWC, radius, target)
    what = PatchTarget(
        patch=patch, kind=target, radius=radius, norm_pix=norm_pix, mean=_three(mean), std=_three(std)
    )
    return kernel.masked_patches(images_BHWC, ids_keep_BK, ids_mask_BM, what, dtype=dtype, target_dtype=dtype)


def low_pass(
    images_BHWC: Tensor, *, radius: float, kind: Literal["gaussian", "ideal"] = "gaussian"
) -> Tensor:
    """Low-pass whole images, as the targets of PixMIM are before they are normalised and cut into patches.

    Example:
        smooth = turbomim.low_pass(batch.images_BHWC, radius=40)  # (B, S, S, 3) float32, 0 to 1
        pictures = (smooth.clamp(0, 1) * 255).round().byte()

    Args:
        images_BHWC: (B, S, S, 3) uint8 RGB, on any device.
        radius: Cut-off, cycles per image: a wave of f cycles keeps exp(-f² / (2 radius²)) of its amplitude
            by "gaussian"; by "ideal" all of it up to the radius and nothing beyond.
        kind: "gaussian", a blur of standard deviation S / (2 π radius) pixels with a reflected border; or
            "ideal", a disc in the spectrum and then the modulus, as PixMIM published it.

    Returns:
        (B, S, S, 3) float32 in 0..1 units; the ripples of "ideal" may go a little beyond.

    Raises:
        ValueError: Images are not square uint8 RGB, or the radius is not one that their size allows.
    """
    filters = {"gaussian": gaussian_ref, "ideal": ideal_ref}
    if kind not in filters:
        raise ValueError(f'kind is "{kind}": choose "gaussian" or "ideal"')
    _check_radius(images_BHWC, radius, kind)
    return filters[kind](images_BHWC, radius)


def _check_radius(images_BHWC: Tensor, radius: float, kind: TargetKind) -> None:
    """Raise ValueError if these are no images, or their waves are all within the radius."""
    kernel.check_images(images_BHWC)
    size = images_BHWC.shape[1]
    highest = highest_frequency(size, kind)
    if radius >= highest:
        raise ValueError(
            f"radius is {radius}: images of {size} pixels have waves of up to {highest:.1f} cycles, so "
            "nothing would be filtered: choose a smaller one"
        )


def _three(numbers: Sequence[float]) -> tuple[float, float, float]:
    """One number a channel.  Raises ValueError."""
    if len(numbers) != 3:
        raise ValueError(f"mean and std have {len(numbers)} numbers: give three, one a channel")
    red, green, blue = map(float, numbers)
    return red, green, blue
