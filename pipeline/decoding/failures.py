"""Errors that come out of decoding: an image's own, or the machine's, for which no photograph is to blame.

DALI raises RuntimeError for both, and a machine's error fails every image.  An image is replaced or left out
for its own alone.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from turbomim.pipeline.system.errors import UserError

# std::bad_alloc, DALI's CUDABadAlloc, torch's allocators, oneDNN on a host that has no more, nvImageCodec's
# allocator failures; its internal errors, 8 and 17, are what it also says to a damaged header
MEMORY: Final = re.compile(
    r"bad_alloc|can't allocate|cannot allocate memory|CUDA allocation failed|out of memory"
    r"|could not create a (primitive|memory object)|nvImageCodec failure: '#(5|15)'",
    re.IGNORECASE,
)
# errors of CUDA's runtime and driver in the words of DALI, nvImageCodec and torch
DEVICE: Final = re.compile(r"cuda|cudnn|nvImageCodec failure: '#21'", re.IGNORECASE)
RESTART: Final = (
    "run the same command again; if it comes back, --data.decode cpu leaves the decoding to the CPU, and "
    "CUDA_LAUNCH_BLOCKING=1 in the environment makes the call that failed say so"
)


class DeviceFault(RuntimeError):
    """A GPU that decodes nothing, and does not say why."""


def out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device refused memory, also to what a UserError tells of.

    torch has no error of its own for the host's.
    """
    if isinstance(error, UserError):
        return error.__cause__ is not None and out_of_memory(error.__cause__)
    if isinstance(error, RuntimeError):
        # by its name, as what decodes images does without torch
        of_torch = type(error).__name__ == "OutOfMemoryError"
        return of_torch or bool(MEMORY.search(_detail(error)))
    return isinstance(error, MemoryError)


def of_machine(error: BaseException) -> bool:
    """Whether an error is the machine's: of its memory or its GPU."""
    return out_of_memory(error) or isinstance(error, DeviceFault) or bool(DEVICE.search(_detail(error)))


@contextmanager
def no_image_to_blame(what: str, more_memory: str) -> Iterator[None]:
    """Within it an error of the machine becomes a UserError.

    what: could not be done, and where; more_memory: what to do where memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not of_machine(error):
            raise
        remedy = f"memory ran out: {more_memory}" if out_of_memory(error) else RESTART
        reason = failure_reason(error)
        raise UserError(
            f"{what}: {reason}; no photograph is to blame, and none was replaced: {remedy}"
        ) from error


def failure_reason(error: BaseException) -> str:
    """Return the line of a DALI error that says what happened."""
    lines = (line.strip(" :") for line in _detail(error).splitlines())
    return next((line for line in lines if line), "no reason given")


def _detail(error: BaseException) -> str:
    """What is left of a message without the pipeline's definition, whose paths may name anything."""
    message = str(error)
    return message.partition("encountered:")[2] or message
