"""A loader that runs over many epochs, made anew again and again, leaves nothing behind."""

import os

import pytest

from turbomim.benchmarks.loader.soak import Look, judge, soak
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.tars.split import Split


def looks_of(split: Split) -> list[Look]:
    looks, served = soak(split, minutes=4 / 60, warm_minutes=0.6 / 60, size=32, every_s=0.2, lifetime_s=0.3)
    assert served > len(split.index)
    return looks


def test_nothing_grows(tiny_split: Split) -> None:
    looks = looks_of(tiny_split)
    assert len(looks) > 8
    # other processes come and go in /dev/shm
    assert set(judge(looks)["grew"]) <= {"shm"}


def test_a_leak_is_found(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    close = ReadAhead.close

    def leaky(ahead: ReadAhead) -> None:
        leaked.append(os.open(os.devnull, os.O_RDONLY))
        close(ahead)

    leaked: list[int] = []
    monkeypatch.setattr(ReadAhead, "close", leaky)
    try:
        assert "files" in judge(looks_of(tiny_split))["grew"]
    finally:
        for descriptor in leaked:
            os.close(descriptor)
