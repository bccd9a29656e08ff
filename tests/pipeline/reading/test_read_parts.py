"""A read that the file system answers in parts."""

import os

import numpy as np
import pytest

from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.tars.split import Split


def test_a_read_in_parts_is_whole(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from some file systems in user space; the end of the file is still found."""
    files, ids, preadv = ShardFiles(tiny_split), np.arange(33), os.preadv
    expected = read_samples(tiny_split, files, ids)
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:700]], offset))
    found = read_samples(tiny_split, files, ids)
    assert [image.tobytes() for image in found.images] == [image.tobytes() for image in expected.images]
    size = tiny_split.manifest.shards[0].bytes
    assert files.read(0, memoryview(bytearray(3000)), size - 1000) == 1000
    files.close()
