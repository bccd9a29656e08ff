"""`turbomim.centre_crops`: each image once, in order, as the evaluation crops it.

Planted: a share that is not used (`test_crops_are_those_of_the_evaluation`); faults that are passed over, and
their places counted (`test_what_cannot_be_used_is_left_out_and_told`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import turbomim
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import eval_crops


def test_crops_are_those_of_the_evaluation(tiny_split: Split) -> None:
    ids = np.arange(33)
    batches = list(turbomim.centre_crops(tiny_split.folder, size=64, batch=8))
    assert [len(batch.ids_B) for batch in batches] == [8, 8, 8, 8, 1]
    assert [batch.position for batch in batches] == [0, 8, 16, 24, 32]
    for batch, (images, labels) in zip(batches, eval_crops(tiny_split, ids, size=64, batch=8), strict=True):
        assert np.array_equal(batch.images_BHWC.numpy(), images) and batch.images_BHWC.is_contiguous()
        assert batch.labels_B.tolist() == labels.tolist() and batch.labels_B.dtype == torch.int64
        assert batch.epochs_B.tolist() == [0] * len(labels)
    assert torch.cat([batch.ids_B for batch in batches]).tolist() == ids.tolist()
    whole = next(iter(turbomim.centre_crops(tiny_split.folder, size=64, batch=8, share=1.0)))
    assert not torch.equal(whole.images_BHWC, batches[0].images_BHWC)


def test_each_for_begins_again(trees: Path) -> None:
    """A validation after each epoch, one of which was broken off.  Planted, and seen to fail: a generator."""
    crops = turbomim.centre_crops(trees, size=32, batch=8)
    for _ in crops:
        break
    for _ in range(2):
        assert [batch.ids_B.tolist() for batch in crops][4] == [32]


def test_a_folder_gives_its_classes_and_a_flat_one_none(photo_folder: Path) -> None:
    labels = torch.cat([batch.labels_B for batch in turbomim.centre_crops(photo_folder, size=32)])
    assert labels.bincount().tolist() == [11, 11, 11]
    (batch,) = turbomim.centre_crops(photo_folder / "ash", size=32)
    assert batch.labels_B.tolist() == [-1] * 11


def test_what_cannot_be_used_is_left_out_and_told(tmp_path: Path) -> None:
    """One that is no image, one that is too small: a line each, and no place in a batch."""
    for number in range(4):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"none")
    Image.new("RGB", (4, 4)).save(tmp_path / "2.png")
    lines: list[str] = []
    (batch,) = turbomim.centre_crops(tmp_path, size=32, notify=lines.append)
    assert batch.ids_B.tolist() == [0, 3]
    assert batch.images_BHWC[:, 0, 0, 0].tolist() == [0, 3]
    assert [line.split(" is left out: ")[0] for line in lines] == ["1.png", "2.png"]
    with pytest.warns(UserWarning, match="is left out") as caught:
        list(turbomim.centre_crops(tmp_path, size=32))
    assert len(caught) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 0}, "batch = 0: must be at least 1"),
        ({"batch": 2.5}, "batch = 2.5: must be a whole number"),
        ({"size": "64"}, "size = '64': must be a whole number"),
        ({"share": "1"}, "share = '1': must be a number"),
        ({"share": 0}, "share = 0: must be above 0"),
        ({"size": 0}, "size = 0: must be"),
        ({"interpolation": "nearest"}, "interpolation = 'nearest': must be"),
        ({"device": "gpu"}, "device = 'gpu': must be auto, cpu, cuda or cuda:NUMBER"),
        ({"device": "cuda:99"}, "device 'cuda:99' was asked for, but torch finds"),
        ({"columns": "path=a"}, "--columns belongs to a list"),
    ],
)
def test_what_cannot_be_is_refused_at_once(trees: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        turbomim.centre_crops(trees, **changes)
