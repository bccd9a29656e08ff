"""Strict decoding: what libjpeg goes on in spite of is a fault here.

Of damage inside a JPEG's scan the decoders of Pillow, torchvision and DALI notice little: libjpeg paints over
it and prints a warning.  The warning is caught, so most of it is found; what still makes a good scan is up to
a checksum.  Shape suffixes: H W pixels, C channels.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decode import Decoder

STDERR: Final = 2
# what libjpeg prints when it goes on in spite of damage
LIBJPEG: Final = re.compile(
    "(Corrupt JPEG data|Premature end of JPEG file|Inconsistent progression sequence).*"
)
# standard error belongs to the process: one decoder at a time
LOCK: Final = threading.Lock()


def decode_strictly(decoder: Decoder, images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8] | str]:
    """Decode as `Decoder.decode` does, but give the warning in place of the pixels where libjpeg has one.

    What else the process prints to standard error meanwhile is dropped; DALI's own lines are wanted nowhere.
    """
    if not images:
        return []
    with LOCK, _caught_stderr() as caught:
        results = decoder.decode(images)
        # anywhere in a line: a thread that draws a progress bar leaves one without an end
        warning = LIBJPEG.search(caught())
    said = warning and warning[0]
    if said and len(images) > 1:
        # one of these, or several: each is decoded alone
        return [result for image_N in images for result in decode_strictly(decoder, [image_N])]
    return [said if said and not isinstance(result, str) else result for result in results]


@contextmanager
def _caught_stderr() -> Iterator[Callable[[], str]]:
    """Send what libraries print to a file in memory; yields the function that returns its text."""
    kept = os.dup(STDERR)
    try:
        # no disk: on a full one the warning would be lost
        with open(os.memfd_create("stderr"), "rb") as file:
            os.dup2(file.fileno(), STDERR)
            yield lambda: os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
