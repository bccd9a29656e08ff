"""What of a stored image the decoder is fed, or why it is not.  Shape suffixes: N bytes."""

import numpy as np
from numpy.typing import NDArray

from turbomim.pipeline.decoding.header import check_header
from turbomim.pipeline.decoding.ppm import ppm_pixels
from turbomim.pipeline.tars.store import Kind


def admit(image_N: NDArray[np.uint8], store: Kind) -> NDArray[np.uint8]:
    """Return what the graph is fed for a stored image: its bytes, or of the raw store its pixels, uncopied.

    Raises ValueError with the reason: another format, a broken header, more than MAX_PIXELS pixels.
    """
    if store == "raw":
        return ppm_pixels(image_N)
    check_header(image_N)
    return image_N
