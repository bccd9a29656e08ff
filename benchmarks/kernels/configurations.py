"""The Triton kernels as the recipes launch them, with the bytes that each moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
import triton

from turbomim.kernels import ideal, lowpass, masked_patches, masking
from turbomim.kernels.patch_target import PatchTarget, TargetKind
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD

_TRITON_TYPES: Final = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Bytes an image."""

    # every input byte once and every output byte once: no kernel can move fewer through DRAM
    floor: int
    # all loads of all programs, most of them from caches; all stores
    loads: int
    stores: int

    def floor_us(self, terabytes_per_s: float) -> float:
        """The floor's time at a memory bandwidth, in µs per 1,000 images."""
        return self.floor / (terabytes_per_s * 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """One kernel as a recipe launches it."""

    name: str
    # the @triton.jit function
    kernel: Any
    # Triton types of the run-time arguments, in order
    types: tuple[str, ...]
    # compile-time arguments and num_warps
    constants: dict[str, int]
    traffic: Traffic


def configurations() -> tuple[Configuration, ...]:
    """Return the configurations that the recipes use, and a wider and a finer one at their limits."""
    bf16, fp32 = torch.bfloat16, torch.float32
    return (
        _masking(units=196, keep=49),
        _masking(units=144, keep=36),
        _masking(units=256, keep=64),
        _masking(units=64, keep=16),
        _masking(units=36, keep=14),
        _masking(units=49, keep=19),
        # MAE, PixMIM, MFF, ConvMAE
        _patches(size=224, patch=16, keep=49, target="raw", dtypes=(bf16, bf16)),
        _patches(size=224, patch=16, keep=49, target="raw", dtypes=(fp32, fp32)),
        _patches(size=224, patch=16, keep=49, target="gaussian", dtypes=(bf16, bf16)),
        _patches(size=224, patch=16, keep=49, target="gaussian", dtypes=(fp32, fp32)),
        # ViT-H/14
        _patches(size=224, patch=14, keep=64, target="raw", dtypes=(bf16, bf16)),
        _patches(size=224, patch=14, keep=64, target="gaussian", dtypes=(bf16, bf16)),
        _patches(size=224, patch=32, keep=12, target="gaussian", dtypes=(bf16, bf16)),
        # SimMIM: 14 of 36 units of 32 pixels stay, or 19 of 49
        _patches(size=192, patch=4, keep=896, target="raw", norm_pix=False, dtypes=(bf16, bf16)),
        _patches(size=224, patch=16, keep=76, target="raw", norm_pix=False, dtypes=(bf16, bf16)),
        _patches(size=224, patch=16, keep=76, target="gaussian", norm_pix=False, dtypes=(bf16, bf16)),
        # SwinV2's targets, cut from whole images
        _patches(size=192, patch=4, keep=0, target="raw", norm_pix=False, dtypes=(fp32, fp32)),
        # LSMAE
        _patches(size=448, patch=16, keep=196, target="raw", dtypes=(bf16, bf16)),
        _patches(size=448, patch=16, keep=196, target="gaussian", dtypes=(bf16, bf16)),
        # PixMIM with the published disc
        _product(rows=82, terms=224, columns=224, operand="u8"),
        _product(rows=224, terms=82, columns=82, operand="fp32"),
        _ideal(size=224, patch=16, keep=49, dtype=bf16),
        _ideal(size=224, patch=16, keep=49, dtype=fp32),
        # CIFAR-10
        _patches(size=32, patch=4, keep=16, target="raw", dtypes=(bf16, bf16)),
        _patches(size=32, patch=4, keep=16, target="gaussian", radius=5.7, dtypes=(bf16, bf16)),
        # the demo
        _patches(size=96, patch=8, keep=36, target="raw", dtypes=(fp32, fp32)),
        _patches(size=96, patch=8, keep=36, target="gaussian", radius=17, dtypes=(fp32, fp32)),
    )


def _masking(*, units: int, keep: int) -> Configuration:
    """Return `random_masking` of so many units."""
    # an epoch and an id, int64, by every program; a number for every unit
    programs, numbers = triton.cdiv(units, masking.TILE), 8 * units
    return Configuration(
        name=f"random_masking, {keep} of {units} units stay",
        kernel=masking._random_masking_kernel,
        types=("*i64", "*i64", "*i64", "*i64", "i64"),
        constants=masking.kernel_constants(units, keep),
        traffic=Traffic(floor=16 + numbers, loads=16 * programs, stores=numbers),
    )


def _patches(
    *,
    size: int,
    patch: int,
    keep: int,
    target: TargetKind,
    dtypes: tuple[torch.dtype, torch.dtype],
    radius: float = 40,
    norm_pix: bool = True,
) -> Configuration:
    """Return `masked_patches`; `dtypes` of visible patches and of targets."""
    visible, hidden = (_TRITON_TYPES[dtype] for dtype in dtypes)
    wanted = _target(patch, target, radius, norm_pix)
    floor, loads, stores = load_store_bytes(size, keep, wanted, *dtypes)
    return Configuration(
        name=f"masked_patches {size} px, patch {patch}, {target}{'' if norm_pix else ' pixels'}, {visible}",
        kernel=masked_patches._masked_patches_kernel,
        types=("*u8", "*i64", "*i64", f"*{visible}", f"*{hidden}", "i32", "i32", *["fp32"] * 9),
        constants=masked_patches.kernel_constants(size, wanted),
        traffic=Traffic(floor=floor, loads=loads, stores=stores),
    )


def _target(patch: int, kind: TargetKind, radius: float, norm_pix: bool) -> PatchTarget:
    return PatchTarget(
        patch=patch, kind=kind, radius=radius, norm_pix=norm_pix, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def load_store_bytes(
    size: int, keep: int, target: PatchTarget, dtype: torch.dtype, target_dtype: torch.dtype
) -> tuple[int, int, int]:
    """Count the bytes of one image: the fewest that DRAM must move, all that programs load, all they store.

    A blurred patch loads its neighbours' pixels too.  These come from a cache, not from DRAM: the programs of
    an image follow each other, and an image is far smaller than the L2.
    Raises ValueError for "ideal", whose kernels do not read the image alone.
    """
    if target.kind == "ideal":
        raise ValueError('target is "ideal": choose "raw" or "gaussian", which read the image itself')
    cells, values = (size // target.patch) ** 2, target.patch**2 * 3
    reach = lowpass.gaussian_extent(size, target.radius)[1] if target.kind == "gaussian" else 0
    ids = 8 * cells
    stores = values * (keep * dtype.itemsize + (cells - keep) * target_dtype.itemsize)
    loads = keep * values + (cells - keep) * (target.patch + 2 * reach) ** 2 * 3 + ids
    return size * size * 3 + ids + stores, loads, stores


def _product(*, rows: int, terms: int, columns: int, operand: str) -> Configuration:
    """Return a product of the ideal filter: one matrix for all, times three an image of type `operand`."""
    item = 1 if operand == "u8" else 4
    tiles = triton.cdiv(rows, ideal.ROWS) * triton.cdiv(columns, ideal.COLUMNS)
    stores = 3 * rows * columns * 4
    return Configuration(
        name=f"product {rows} x {terms} x {columns}, {operand}",
        kernel=ideal._product_kernel,
        types=("*fp32", f"*{operand}", "*fp32", *["i32"] * 12),
        constants=ideal.product_constants(),
        traffic=Traffic(
            floor=3 * terms * columns * item + stores,
            loads=3 * tiles * terms * (4 * ideal.ROWS + item * ideal.COLUMNS),
            stores=stores,
        ),
    )


def _ideal(*, size: int, patch: int, keep: int, dtype: torch.dtype) -> Configuration:
    """Return the kernel that writes ideal targets, with norm_pix, at radius 40."""
    constants = ideal.ideal_constants(size, _target(patch, "ideal", 40, norm_pix=True))
    waves, masked = constants["WAVES"], (size // patch) ** 2 - keep
    parts, stores = 2 * 3 * size * waves * 4, masked * patch * patch * 3 * dtype.itemsize
    return Configuration(
        name=f"ideal targets {size} px, patch {patch}, {_TRITON_TYPES[dtype]}",
        kernel=ideal._ideal_patches_kernel,
        types=("*fp32", "*fp32", "*fp32", "*i64", f"*{_TRITON_TYPES[dtype]}", "i32", *["fp32"] * 6),
        constants=constants,
        traffic=Traffic(
            floor=parts + masked * 8 + stores,
            # a patch's rows of both parts in three channels, and its columns of the waves
            loads=masked * (7 * patch * waves * 4 + 8),
            stores=stores,
        ),
    )
