"""Samples that cannot be decoded: who stands in, the same stream on any machine, and when a run ends."""

import os
from typing import Any

import numpy as np
import pytest
from tests.pipeline.decoding.crop_reference import run_windows
from tests.pipeline.loading import make_loader
from tests.pipeline.test_loader import SEED, SIZE, by_position, load

from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import draw_crops
from turbomim.pipeline.decoding.windows import HostWindows
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.stream.order import sample_ids
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split

N = 33
# one alone, two in a row, the last of the storage, whose stand-in is the first
DAMAGED = {6: "cut", 12: "zeros", 13: "huge", 32: "cut"}
STAND_INS = {6: 7, 12: 14, 13: 14, 32: 0}


def damage(split: Split, sample: int, how: str) -> None:
    """Spoil the image of a sample; the tar stays whole.  `zeros` and `huge` show in the header, `cut` not."""
    size = int(split.index.image_bytes_N[sample])
    with open(split.shard_path(int(split.index.shard_N[sample])), "r+b") as tar:
        tar.seek(int(split.index.image_offset_N[sample]))
        content = bytearray(tar.read(size))
        if how == "cut":
            # to a JPEG decoder 0xFF is padding before a marker that never comes
            first = size // 2 if content[0] == 0xFF else 24
            content[first:] = b"\xff" * (size - first)
        elif how == "zeros":
            content[:] = bytes(size)
        else:
            # any image may be a PNG that announces 20000 x 20000 pixels
            content[:24] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + 2 * (20_000).to_bytes(4, "big")
        tar.seek(-size, os.SEEK_CUR)
        tar.write(content)


@pytest.fixture
def damaged_split(own_split: Split) -> Split:
    for sample, how in DAMAGED.items():
        damage(own_split, sample, how)
    return own_split


def test_the_next_that_decodes_stands_in(damaged_split: Split, tiny_split: Split) -> None:
    """Over two epochs: nothing is lost or doubled, and a whole sample's crop does not change."""
    whole = by_position(load(tiny_split, 11, crop="rrc"))
    lines: list[str] = []
    found = by_position(load(damaged_split, 11, crop="rrc", max_bad_share=1.0, notify=lines.append))
    labels = {sample: label for _, label, sample, _ in whole.values()}
    assert any(labels[bad] != labels[other] for bad, other in STAND_INS.items())
    assert sorted(found) == list(range(66))
    for position, (pixels, label, sample, epoch) in found.items():
        assert (sample, epoch) == whole[position][2:]
        assert label == labels[STAND_INS.get(sample, sample)]
        assert (pixels == whole[position][0]) == (sample not in STAND_INS)
    named = {line.partition(" cannot")[0]: line.partition("replaced by ")[2] for line in lines}
    locate = damaged_split.locate
    assert len(lines) == len(DAMAGED)
    assert named == {locate(bad): locate(other) for bad, other in STAND_INS.items()}
    assert all("\n" not in line for line in lines)


def test_a_stand_in_is_cropped_as_the_sample_it_stands_for(own_split: Split) -> None:
    """The crop of the stand-in's bytes that the position's own draws give."""
    damage(own_split, 4, "cut")
    (position,) = np.flatnonzero(sample_ids(np.arange(N), N, SEED)[1] == 4)
    (batch,) = load(own_split, 1, start=int(position), global_batch=1, micro_batch=1, notify=print)
    files = ShardFiles(own_split)
    images = read_samples(own_split, files, np.array([5])).images
    files.close()
    turn = Turn(position=int(position), epochs_B=np.array([0]), ids_B=np.array([4]))
    expected = run_windows(images, draw_crops(Crop(size=SIZE), SEED, turn), SIZE)
    assert np.array_equal(batch.images_BHWC.numpy(), expected)
    assert (batch.ids_B.tolist(), batch.epochs_B.tolist()) == ([4], [0])


@pytest.mark.parametrize(
    "changes",
    [{"prefetch": 1}, {"prefetch": 3}, {"threads": 1}, {"readers": 1}, {"micro_batch": 3}, {"start": 24}],
    ids=str,
)
def test_stand_ins_do_not_depend_on_the_machine(damaged_split: Split, changes: dict[str, int]) -> None:
    reference = by_position(load(damaged_split, 12, max_bad_share=1.0, notify=print))
    batches = (72 - changes.get("start", 0)) // changes.get("micro_batch", 6)
    found = by_position(load(damaged_split, batches, max_bad_share=1.0, notify=print, **changes))
    assert found == {at: sample for at, sample in reference.items() if at >= changes.get("start", 0)}


@pytest.mark.parametrize("shuffle", ["full", "window"])
def test_two_ranks_replace_as_one(damaged_split: Split, shuffle: str) -> None:
    settings = {"max_bad_share": 1.0, "notify": print, "shuffle": shuffle, "window": 2}
    reference = by_position(load(damaged_split, 12, **settings))
    ranks = [load(damaged_split, 6, rank=rank, world=2, **settings) for rank in range(2)]
    assert by_position([batch for rank in ranks for batch in rank]) == reference


def test_what_is_counted(damaged_split: Split) -> None:
    """Once for each time that a batch with it is handed out, not when it is prepared."""
    with make_loader(
        damaged_split,
        size=SIZE,
        seed=SEED,
        global_batch=11,
        micro_batch=11,
        threads=2,
        readers=2,
        prefetch=3,
        max_bad_share=1.0,
        notify=print,
    ) as loader:
        seen: list[int] = []
        for _ in range(7):
            seen += next(loader).ids_B.tolist()
            stats = loader.stats
            assert stats.samples == len(seen)
            assert stats.replaced == sum(sample in DAMAGED for sample in seen)
        assert stats.decode_wait_s > 0
        assert stats.read_wait_s > 0


def test_too_large_a_share_ends_the_run(damaged_split: Split) -> None:
    """From 200 samples on; 4 of 33 are 12 per cent."""
    lines: list[str] = []
    with pytest.raises(
        UserError, match=r"^\d+ of 2\d\d samples \(1\d\.\d%\), the limit is max_bad_share 5.0%, cannot"
    ):
        load(damaged_split, 100, notify=lines.append)
    assert len(load(damaged_split, 33, notify=print)) == 33
    assert len(load(damaged_split, 60, notify=print, max_bad_share=0.2)) == 60


def test_a_row_of_the_storage(damaged_split: Split) -> None:
    """No stand-in is looked for beyond as many bad samples as the limit."""
    (position,) = np.flatnonzero(sample_ids(np.arange(N), N, SEED)[1] == 12)
    alone: dict[str, Any] = {"start": int(position), "global_batch": 1, "micro_batch": 1, "prefetch": 1}
    with pytest.raises(
        UserError, match="2 samples in a row of the storage, the limit is max_bad_row 2, cannot"
    ):
        load(damaged_split, 1, max_bad_row=2, notify=print, **alone)
    assert len(load(damaged_split, 1, max_bad_row=3, notify=print, **alone)) == 1


def test_a_row_of_the_stream(own_split: Split) -> None:
    """Apart in the storage, one after the other in the stream, over the border of a batch."""
    for sample in sample_ids(np.arange(N), N, SEED)[1][4:8].tolist():
        damage(own_split, sample, "cut")
    with pytest.raises(UserError, match="4 samples in a row, the limit is max_bad_row 4, cannot"):
        load(own_split, 3, max_bad_row=4, notify=print)
    # only those in a row count: over all there are more
    assert len(load(own_split, 24, max_bad_row=5, notify=print)) == 24


@pytest.mark.parametrize("how", ["cut", "zeros"])
def test_a_split_without_one_good_image(own_split: Split, how: str) -> None:
    for sample in range(N):
        damage(own_split, sample, how)
    with pytest.raises(UserError, match=r"^all 33 samples of the split cannot be decoded") as caught:
        load(own_split, 1, notify=print)
    assert "\n" not in str(caught.value)


def test_a_failure_that_no_image_explains(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Critical error in pipeline:\nencountered:\n\nUnknown critical error.\nmore")

    monkeypatch.setattr(HostWindows, "take", fail)
    with pytest.raises(
        UserError, match=r"position 12, .* one by one: Unknown critical error.; if memory"
    ) as caught:
        load(tiny_split, 1, start=12, notify=print)
    assert "\n" not in str(caught.value)


def test_a_stand_in_that_cannot_be_read_is_an_error(own_split: Split) -> None:
    """A shard that changed is not repaired."""
    damage(own_split, 8, "cut")
    (position,) = np.flatnonzero(sample_ids(np.arange(N), N, SEED)[1] == 8)
    os.truncate(own_split.shard_path(1), 512)
    with pytest.raises(UserError, match=r"at byte \d+: the file ends"):
        load(own_split, 1, start=int(position), global_batch=1, micro_batch=1, prefetch=1, notify=print)
