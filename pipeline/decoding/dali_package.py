"""NVIDIA DALI, imported only here and only where it is needed: what decodes nothing runs without it.

Its two wheels, one for each CUDA, install the same files: whichever comes second overwrites the first, and
taking one away takes the other's files too.
"""

import functools
import sys
from types import ModuleType
from typing import Final

from turbomim.pipeline.system.errors import UserError, one_line_with_class, to_stderr
from turbomim.pipeline.system.packages import installed

# each wheel's CUDA and the extra of turbomim that installs it
WHEELS: Final = {"nvidia-dali-cuda120": (12, "cuda12"), "nvidia-dali-cuda130": (13, "cuda13")}


@functools.cache
def import_dali() -> ModuleType:
    """Import nvidia.dali; where its wheel does not suit this torch, say so once, to standard error.

    Raises UserError if DALI is not installed or cannot be imported.
    """
    try:
        import nvidia.dali as dali
    except (ImportError, OSError) as error:
        import torch

        gone = isinstance(error, ModuleNotFoundError) and error.name in ("nvidia", "nvidia.dali")
        raise UserError(
            "NVIDIA DALI, which cuts random resized crops and feeds GPUs, "
            f"{'is not installed' if gone else f'cannot be imported ({one_line_with_class(error)})'}: "
            f"{remedy(installed_wheels(), torch.version.cuda)}"
        ) from error
    problem = _problem_here()
    if problem is not None:
        to_stderr(problem)
    return dali


def installed_wheels() -> dict[str, str]:
    """Name and version of each DALI wheel that is installed."""
    return installed(WHEELS)


def suitable_wheel(torch_cuda: str | None) -> str:
    """Name the wheel for torch's CUDA, as "13.0"; None, that of a torch without, takes the newer one."""
    major = (torch_cuda or "").partition(".")[0]
    return "nvidia-dali-cuda120" if major == "12" else "nvidia-dali-cuda130"


def remedy(wheels: dict[str, str], torch_cuda: str | None) -> str:
    """Give the command that leaves the wheel for torch's CUDA and no other.

    Every wheel goes first: pip takes one for whole whose files went away with the other.
    """
    install = f"pip install 'turbomim[{WHEELS[suitable_wheel(torch_cuda)][1]}]'"
    return f"pip uninstall -y {' '.join(wheels)}; {install}" if wheels else install


def wheel_problem(wheels: dict[str, str], torch_cuda: str | None, *, gpu: bool) -> str | None:
    """Say what is wrong with the DALI wheels that are installed, in one line with the remedy; else None.

    torch_cuda: the CUDA that torch is built for, None for none; gpu: whether one is to be used.
    """
    if len(wheels) > 1:
        named = " and ".join(f"{name} {version}" for name, version in wheels.items())
        return f"{named} are both installed, over each other's files: {remedy(wheels, torch_cuda)}"
    if not (wheels and gpu and torch_cuda) or suitable_wheel(torch_cuda) in wheels:
        return None
    (name,) = wheels
    return (
        f"{name} is for CUDA {WHEELS[name][0]}, torch for CUDA {torch_cuda}: a driver that runs one may not "
        f"run the other; {remedy(wheels, torch_cuda)}"
    )


def _problem_here() -> str | None:
    """`wheel_problem` of this process."""
    wheels = installed_wheels()
    # a process without torch uses no GPU, and importing torch takes seconds
    if len(wheels) < 2 and "torch" not in sys.modules:
        return None
    import torch

    cuda = torch.version.cuda
    if list(wheels) == [suitable_wheel(cuda)]:
        return None
    return wheel_problem(wheels, cuda, gpu=torch.cuda.is_available())
