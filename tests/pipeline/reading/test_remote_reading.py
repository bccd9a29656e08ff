"""A split in a store is read as from its folder: the same samples in the same order, however fast.

Planted, each seen to fail: groups whose rows are cut at the wrong place; versions that are not passed on; a
close that waits for what is tried again; groups that grow without a limit.
"""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from turbomim.benchmarks.stores.fault_proxy import FaultProxy
from turbomim.benchmarks.stores.faults import Fault
from turbomim.pipeline.places.opening import open_place
from turbomim.pipeline.reading import read_ahead
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.stream.turns import BatchCut, SampleStream, Turn, turns
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split

TURNS = 21
Taken = list[tuple[int, list[int], list[bytes], list[int]]]


@pytest.fixture
def remote(tiny_split: Split, s3: str, proxy: FaultProxy) -> Split:
    """`tiny_split` in the store, asked through the proxy."""
    place = open_place(s3)
    for path in sorted(tiny_split.folder.iterdir()):
        place.put(path.name, path)
    return open_split(s3)


def taken(split: Split, readers: int = 2, prefetch: int = 2, batch: int = 4) -> Taken:
    """What the first turns of a stream give."""
    stream = SampleStream(seed=3, cut=BatchCut(global_batch=batch, micro_batch=batch))
    all_turns = turns(stream, [shard.samples for shard in split.manifest.shards])
    with ReadAhead(split, all_turns, readers=readers, prefetch=prefetch) as ahead:
        return [
            (
                turn.position,
                turn.ids_B.tolist(),
                [image.tobytes() for image in samples.images],
                samples.labels_B.tolist(),
            )
            for turn, samples in islice(ahead, TURNS)
        ]


@pytest.mark.parametrize(("readers", "prefetch", "group"), [(1, 1, 1), (1, 4, 20_000), (3, 2, 10**8)])
def test_the_same_samples_as_from_a_folder(
    remote: Split, tiny_split: Split, monkeypatch: pytest.MonkeyPatch, readers: int, prefetch: int, group: int
) -> None:
    """group: bytes that are asked for together, from a turn at a time to a whole epoch."""
    monkeypatch.setattr(read_ahead, "GROUP", group)
    assert taken(remote, readers, prefetch) == taken(tiny_split)


def test_a_group_has_a_limit(remote: Split, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than prefetch + 1 groups are asked for beyond what was taken."""
    mean = remote.manifest.bytes // remote.manifest.samples
    monkeypatch.setattr(read_ahead, "GROUP", 8 * mean)
    stream = SampleStream(seed=3, cut=BatchCut(global_batch=4, micro_batch=4))
    all_turns = turns(stream, [shard.samples for shard in remote.manifest.shards])
    count = 0

    def counted() -> Iterator[Turn]:
        nonlocal count
        for turn in all_turns:
            count += 1
            yield turn

    with ReadAhead(remote, counted(), readers=1, prefetch=2) as ahead:
        for number in range(1, 30):
            next(ahead)
            # a group is two turns of four
            assert count - number <= 2 * (2 + 1) + 1


KINDS = (Fault.ERROR, Fault.SLOW_DOWN, Fault.RESET, Fault.TRUNCATED, Fault.SHORT, Fault.LONG, Fault.LOST)


def test_faults_change_nothing(remote: Split, tiny_split: Split, proxy: FaultProxy) -> None:
    """Half of all requests fail, in each way in turn."""
    proxy.plan = lambda request: KINDS[request.number // 2 % len(KINDS)] if request.number % 2 else None
    assert taken(remote) == taken(tiny_split)
    assert len(proxy.injected) == len(KINDS)


def test_a_shard_that_is_replaced_is_named(remote: Split, s3: str) -> None:
    """By one of its size: no picture of it is ever seen."""
    place = open_place(s3)
    name = remote.manifest.shards[1].name
    place.put(name, place.read(name)[:-1] + b"\1")
    with pytest.raises(
        UserError, match=rf"^cannot read bytes \d+ to \d+ of '{s3}/{name}': .* was changed"
    ) as e:
        taken(remote)
    assert "\n" not in str(e.value) and "put the old object back" in str(e.value)
    with pytest.raises(
        UserError, match=r"^cannot read .*: there is no such object; run `turbomim shard verify` on the split"
    ):
        place.delete(name)
        taken(remote)


def test_a_request_that_never_works_names_itself(
    remote: Split, s3: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Place, shard, bytes, cause, seconds and remedy, in one line."""
    from turbomim.pipeline.places import retries

    monkeypatch.setattr(retries, "LIMIT", 0.6)
    proxy.plan = lambda request: Fault.SLOW_DOWN
    expected = (
        rf"^cannot read bytes \d+ to \d+ of '{s3}/\S+\.tar': the store answered 503 SlowDown "
        r"\(tried for \d+ s\); the store or the network fails: try again later$"
    )
    with pytest.raises(UserError, match=expected):
        taken(remote)


def test_a_close_waits_for_nothing_that_is_tried_again(remote: Split, proxy: FaultProxy) -> None:
    proxy.plan = lambda request: Fault.ERROR
    stream = SampleStream(seed=3, cut=BatchCut(global_batch=4, micro_batch=4))
    lines: list[str] = []
    ahead = ReadAhead(
        remote, turns(stream, [9, 9, 9, 6]), readers=1, prefetch=1, on_wait=lines.append, wait_s=0.1
    )
    ahead._queue.append(([], ahead._begin([next(ahead._turns)])))
    while len(proxy.exchanges) < 20:
        time.sleep(0.01)
    begun = time.monotonic()
    ahead.close()
    # a request is tried for five minutes
    assert time.monotonic() - begun < 60


def test_sizes_are_compared_at_the_opening(remote: Split, s3: str, tmp_path: Path) -> None:
    place = open_place(s3)
    name = remote.manifest.shards[0].name
    place.put(name, place.read(name)[:-512])
    with pytest.raises(UserError, match=rf"shard '{s3}/{name}' is shorter than the manifest says"):
        open_split(s3)
    assert np.all([version for version in remote.versions])
