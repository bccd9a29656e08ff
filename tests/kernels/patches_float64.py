"""What `masked_patches` must return, in float64 and by other means: torchvision, numpy's FFT, loops."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torchvision.transforms.functional as tvf
from torch import Tensor

from turbomim.kernels.patch_target import PatchTarget, TargetKind

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Rounding of the output dtype, against values of at most 2.7: half a unit in the last place.
VISIBLE_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
# Two float32 sums of up to 31 products of 0..1 values, divided by a std of 0.22.
TARGET_TOLERANCE = 5e-6
# Dividing by a patch's own std of at least 0.2 makes the same error up to five times larger.
NORM_PIX_TOLERANCE = 2e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One call of `masked_patches`."""

    batch: int
    size: int
    patch: int
    keep: int
    target: TargetKind = "raw"
    # cycles per image
    radius: float = 40.0
    norm_pix: bool = True
    dtype: torch.dtype = torch.float32
    target_dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        norm = "norm" if self.norm_pix else "plain"
        dtype, target_dtype = (str(d).removeprefix("torch.") for d in (self.dtype, self.target_dtype))
        shape = f"{self.batch}x{self.size}-p{self.patch}-k{self.keep}"
        return f"{shape}-{self.target}-r{self.radius:g}-{norm}-{dtype}-{target_dtype}"

    @property
    def wanted(self) -> PatchTarget:
        return PatchTarget(
            patch=self.patch,
            kind=self.target,
            radius=float(self.radius),
            norm_pix=self.norm_pix,
            mean=MEAN,
            std=STD,
        )

    @property
    def patches(self) -> int:
        return (self.size // self.patch) ** 2


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return images with ramps, noise and saturated parts, and a random split of their patches."""
    generator = torch.Generator().manual_seed(case.size + case.patch)
    ramp = torch.linspace(-60, 300, case.size)
    channels = torch.tensor([0.0, 20.0, -30.0])
    smooth = 0.6 * ramp[:, None, None] + 0.4 * ramp.flip(0)[None, :, None] + channels
    noise = 90 * torch.randn(case.batch, case.size, case.size, 3, generator=generator)
    images = (smooth + noise).clamp(0, 255).to(torch.uint8)
    order = torch.rand(case.batch, case.patches, generator=generator).argsort(1)
    return images, order[:, : case.keep].contiguous(), order[:, case.keep :].contiguous()


def expected(case: Case, images: Tensor, ids_keep: Tensor, ids_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the visible patches and the targets, float64."""
    exact = images.double() / 255
    filtered = {"raw": lambda: exact, "gaussian": lambda: blurred(exact, case.radius)}.get(
        case.target, lambda: torch.from_numpy(disc_filtered(exact.numpy(), case.radius))
    )()
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    visible = cut((exact - mean) / std, ids_keep, case.patch)
    target = cut((filtered - mean) / std, ids_mask, case.patch)
    if case.norm_pix:
        average = target.mean(-1, keepdim=True)
        variance = ((target - average) ** 2).sum(-1, keepdim=True) / (target.shape[-1] - 1)
        target = (target - average) / (variance + 1e-6) ** 0.5
    return visible, target


def cut(images: Tensor, ids: Tensor, patch: int) -> Tensor:
    """Cut patches out one by one: (row, column, channel) order, numbered row by row."""
    grid = images.shape[1] // patch
    rows = []
    for image, numbers in zip(images, ids.tolist(), strict=True):
        corners = [(number // grid * patch, number % grid * patch) for number in numbers]
        cells = [image[y : y + patch, x : x + patch].reshape(-1) for y, x in corners]
        rows.append(torch.stack(cells))
    return torch.stack(rows)


def blurred(images: Tensor, radius: float) -> Tensor:
    """Blur (B, S, S, 3) with torchvision."""
    sigma = images.shape[1] / (2 * math.pi * radius)
    taps = 2 * math.ceil(4 * sigma) + 1
    result: Tensor = tvf.gaussian_blur(images.permute(0, 3, 1, 2), [taps, taps], [sigma, sigma])
    return result.permute(0, 2, 3, 1)


def disc_filtered(images: npt.NDArray[np.float64], radius: float) -> npt.NDArray[np.float64]:
    """Filter (B, S, S, 3) as PixMIM's published code does: shifted FFT, off-centre disc, modulus."""
    disc = shifted_disc(images.shape[1], radius)[None, :, :, None]
    spectrum = np.fft.fftshift(np.fft.fft2(images, axes=(1, 2)), axes=(1, 2))
    filtered: npt.NDArray[np.float64] = np.abs(np.fft.ifft2(spectrum * disc, axes=(1, 2)))
    return filtered


def shifted_disc(size: int, radius: float) -> npt.NDArray[np.bool_]:
    """The published mask over the shifted spectrum, (S, S): True = frequency kept."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc: npt.NDArray[np.bool_] = y**2 + x**2 <= radius**2
    return disc


def check(case: Case, visible: Tensor, target: Tensor, want: tuple[Tensor, Tensor]) -> None:
    """Compare a result with `expected`: every value, so an unwritten one (NaN) fails."""
    assert visible.dtype == case.dtype
    assert target.dtype == case.target_dtype
    tolerance = VISIBLE_TOLERANCE[case.dtype]
    torch.testing.assert_close(visible.cpu().double(), want[0], rtol=tolerance, atol=tolerance)
    tolerance = NORM_PIX_TOLERANCE if case.norm_pix else TARGET_TOLERANCE
    rounding = 0.0 if case.target_dtype == torch.float32 else VISIBLE_TOLERANCE[case.target_dtype]
    torch.testing.assert_close(target.cpu().double(), want[1], rtol=rounding, atol=tolerance)
