"""A decoder that kills its process over one image: what the fault tests and benchmarks plant.

A module `simplejpeg` of our own is found before the real one, and hands everything else on to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import simplejpeg
from PIL import Image

from turbomim.benchmarks.faults.image_kinds import encode
from turbomim.benchmarks.write_split import texture, write_split
from turbomim.pipeline.tars.split import Split

MARK: Final = b"no process survives this image"

MODULE: Final = f"""
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("real_simplejpeg", {simplejpeg.__file__!r},
    submodule_search_locations=[os.path.dirname({simplejpeg.__file__!r})])
real = importlib.util.module_from_spec(spec)
sys.modules["real_simplejpeg"] = real
spec.loader.exec_module(real)

def decode_jpeg(data, *words, **settings):
    if {MARK!r} in bytes(data):
        os.kill(os.getpid(), signal.SIGSEGV)
    return real.decode_jpeg(data, *words, **settings)
"""


def plant_decoder(folder: Path) -> Path:
    """Write the module into a folder, which goes first into PYTHONPATH; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "simplejpeg.py").write_text(MODULE)
    return folder


def split_with(folder: Path, samples: int, sample: int, *, deadly: bool) -> Split:
    """Write a split of JPEGs of which one is deadly, or else cut: a decoder refuses it."""
    pictures = [Image.fromarray(texture(number, 40, 50)) for number in range(samples)]
    images = [encode(picture, quality=95) for picture in pictures]
    images[sample] = encode(pictures[sample], quality=95, comment=MARK) if deadly else images[sample][:-100]
    return write_split(folder, images)
