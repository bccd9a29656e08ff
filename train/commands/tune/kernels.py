"""`turbomim tune kernels`: measure launch options of the Triton kernels here against the pinned ones.

Options are pinned in the kernels, not searched for at run time: a run compiles once and two runs are alike.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from turbomim.kernels import masked_patches, masking
from turbomim.pipeline.system.errors import UserError
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD
from turbomim.train.settings.flags import no_arguments

Options = dict[str, int]

BATCH, SIZE, PATCH, PATCHES, KEEP = 256, 224, 16, 196, 49
# a pinned choice is worth changing when another is faster by more than measurements vary
WORTH: Final = 0.03
PATCH_OPTIONS: Final = tuple({"num_warps": warps} for warps in (1, 2, 4, 8))
MASKING_OPTIONS: Final = tuple(
    {"CHUNK": chunk, "num_warps": warps} for chunk, warps in itertools.product((8, 16, 32), (2, 4, 8))
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One kernel on one input, with the options to try; `run` takes those that replace the pinned ones."""

    name: str
    run: Callable[[Options], object]
    pinned: Options
    options: Sequence[Options]


def command(argv: list[str]) -> None:
    """`turbomim tune kernels`: print a line a kernel.  Raises UserError without a GPU."""
    no_arguments(argv, "tune kernels")
    if not torch.cuda.is_available():
        raise UserError("tune kernels measures on a CUDA GPU, and there is none here: see turbomim doctor")
    # needs a GPU's driver to import
    from triton.testing import do_bench

    print(f"{torch.cuda.get_device_name()}, batch {BATCH}; median times")
    for launch in launches(torch.device("cuda")):
        print(verdict(launch, lambda run: float(do_bench(run, return_mode="median"))))


def verdict(launch: Launch, milliseconds: Callable[[Callable[[], object]], float]) -> str:
    """One line: the pinned options' time, the fastest's, and whether to change the pinned ones.

    `milliseconds` times a function.  Options that the GPU has no room for are left out.
    """
    times = [(options, _time(launch, options, milliseconds)) for options in launch.options]
    pinned = milliseconds(functools.partial(launch.run, {}))
    best, fastest = min(times, key=lambda pair: pair[1])
    advice = f"change it to {_words(best)}" if fastest < (1 - WORTH) * pinned else "keep it"
    return (
        f"{launch.name}: pinned {_words(launch.pinned)} {pinned * 1000:.1f} µs, "
        f"fastest {_words(best)} {fastest * 1000:.1f} µs: {advice}"
    )


def _time(launch: Launch, options: Options, milliseconds: Callable[[Callable[[], object]], float]) -> float:
    from triton.runtime.errors import OutOfResources

    try:
        return milliseconds(functools.partial(launch.run, options))
    except OutOfResources:
        return float("inf")


def _words(options: Options) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def launches(device: torch.device) -> list[Launch]:
    """The kernels as MAE and PixMIM with ViT-B/16 launch them."""
    images_BHWC = torch.randint(0, 256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    ids_B = torch.arange(BATCH, device=device)
    keep_BK, mask_BM = masking.random_masking(0, ids_B * 0, ids_B, PATCHES, KEEP)

    def mask(options: Options) -> object:
        arguments = (0, ids_B * 0, ids_B, PATCHES, KEEP)
        return masking._launch_random_masking(*arguments, run=replacing(options))

    def patches(target: str, options: Options) -> object:
        settings = (PATCH, target, 40.0, True, IMAGENET_MEAN, IMAGENET_STD, torch.bfloat16, torch.bfloat16)
        return masked_patches._launch_masked_patches(
            images_BHWC, keep_BK, mask_BM, *settings, run=replacing(options)
        )

    found = [
        Launch(
            name="random_masking",
            run=mask,
            pinned=_chosen(masking.kernel_constants(PATCHES, KEEP), MASKING_OPTIONS),
            options=MASKING_OPTIONS,
        )
    ]
    for target in ("raw", "gaussian"):
        constants = masked_patches.kernel_constants(SIZE, PATCH, target, 40.0, norm_pix=True)
        found.append(
            Launch(
                name=f"masked_patches {target}",
                run=functools.partial(patches, target),
                pinned=_chosen(constants, PATCH_OPTIONS),
                options=PATCH_OPTIONS,
            )
        )
    return found


def _chosen(constants: Options, options: Sequence[Options]) -> Options:
    """The pinned values of what the options change."""
    return {name: constants[name] for name in options[0]}


def replacing(options: Options) -> Callable[[Any], Any]:
    """What a launcher takes as `run`: the kernel, with these options in place of the pinned ones."""

    class Replaced:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Callable[..., object]:
            def launched(*arguments: object, **pinned: Any) -> object:
                return self.kernel[grid](*arguments, **(pinned | options))

            return launched

    return Replaced
