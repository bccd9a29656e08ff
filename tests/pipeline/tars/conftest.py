"""A few small shards in a place that counts, for caches of them."""

from __future__ import annotations

import pytest
from tests.pipeline.tars.caches import PARTS, write_shards
from tests.pipeline.tars.counted_place import CountedPlace

from turbomim.pipeline.places import download
from turbomim.pipeline.tars import fill_cache
from turbomim.pipeline.tars.manifest import Manifest


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that fit the small shards, and looks that come soon."""
    monkeypatch.setattr(download, "PART", PARTS)
    monkeypatch.setattr(fill_cache, "PAUSE", 0.02)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_shards(tmp_path_factory.getbasetemp() / "far")


@pytest.fixture
def place(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> CountedPlace:
    return CountedPlace(tmp_path_factory.getbasetemp() / "far")
