"""A store of objects that fails where a test says."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from turbomim.benchmarks.stores.fault_proxy import FaultProxy, fault_proxy
from turbomim.benchmarks.stores.weed import Weed
from turbomim.pipeline.places import stores


@pytest.fixture
def proxy(store: Weed, monkeypatch: pytest.MonkeyPatch, s3: str) -> Iterator[FaultProxy]:
    """A proxy that this test's places are asked through; a stalled request costs half a second."""
    monkeypatch.setattr(stores, "SILENCE", timedelta(seconds=0.5))
    with fault_proxy(store.endpoint, stall_s=30) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
