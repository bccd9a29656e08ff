"""Which packages are installed, and in which version."""

import importlib.metadata
from collections.abc import Iterable


def installed(names: Iterable[str]) -> dict[str, str]:
    """Name and version of those of these distributions that are installed, in their order."""
    found = {}
    for name in names:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        # metadata that a broken installation left behind may name none
        if version:
            found[name] = version
    return found
