"""What decides numbers besides the settings: versions of packages."""

import platform

from turbomim import __version__
from turbomim.pipeline.decoding.dali_package import installed_wheels
from turbomim.pipeline.system.packages import installed


def versions() -> dict[str, str]:
    """Versions that decide numbers: turbomim, python, torch, triton, timm, DALI's wheel."""
    own = {"turbomim": __version__, "python": platform.python_version()}
    names = ("torch", "triton", "timm")
    found = dict.fromkeys(names, "missing") | installed(names)
    return own | found | (installed_wheels() or {"DALI": "missing"})
