"""Which photograph a crop comes from: halves, shares and chance by hand, and a small run's crops for real.

Planted, each seen to fail the test named: single crops asked
(`test_halves_hold_every_photograph_of_two_crops_or_more`); each half asked itself, chance as one in so many
photographs (`test_share_and_chance_by_hand`); near-twins counted as two
(`test_a_run_is_asked_beside_its_baselines`).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.runs import config_for, quiet

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.tars.split import Split
from turbomim.train.demo.photos import Source
from turbomim.train.demo.which_photograph import (
    MEASURE,
    share_by_chance,
    share_recognised,
    split_in_halves,
    table_of_shares,
    which_photograph,
)
from turbomim.train.pretrain.pretrain import pretrain

# crops of photographs 0 (five), 1 (two), 2 (one), as shards mix them
LABELS = torch.tensor([0, 1, 0, 2, 0, 1, 0, 0])


def test_halves_hold_every_photograph_of_two_crops_or_more() -> None:
    one, two = split_in_halves(LABELS)
    assert LABELS[one].tolist() == [0, 0, 0, 1] and LABELS[two].tolist() == [0, 0, 1]
    assert sorted([*one.tolist(), *two.tolist()]) == [0, 1, 2, 4, 5, 6, 7], (
        "crop 3 is the only one of its own"
    )


def test_share_and_chance_by_hand() -> None:
    """Halves hold crops 0, 4, 7 (of 0) and 1 (of 1), and 2, 6 (of 0) and 5 (of 1)."""
    right = torch.nn.functional.one_hot(LABELS).float()
    assert share_recognised(right, LABELS) == 1.0
    drawn = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert share_recognised(drawn, LABELS) == pytest.approx(sum(answers(drawn)) / 7)
    assert 0 < sum(answers(drawn)) < 7
    # 3 x 2 pairs of photograph 0 and 1 x 1 of photograph 1, of 4 x 3 pairs
    assert share_by_chance(LABELS) == pytest.approx(7 / 12)


def answers(values: torch.Tensor) -> list[bool]:
    """Whether each of the seven crops is answered rightly, one after the other, in float64."""
    one, two = [0, 4, 7, 1], [2, 6, 5]
    found = []
    for gallery, asked in ((one, two), (two, one)):
        centred = values.double() - values[gallery].double().mean(0)
        for crop in asked:
            likeness = [torch.cosine_similarity(centred[crop], centred[other], 0).item() for other in gallery]
            found.append(bool(LABELS[gallery[int(np.argmax(likeness))]] == LABELS[crop]))
    return found


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four crops of each of three photographs, the last two near-twins, and one of a fourth, as shards."""
    folder = tmp_path_factory.mktemp("crops")
    for number, name in enumerate(("boat", "eiffel-1", "eiffel-2", "lonely")):
        photograph = Image.fromarray(texture(10 + min(number, 1), 120, 160))
        (folder / "heldout" / name).mkdir(parents=True)
        for crop in range(1 if name == "lonely" else 4):
            box = (crop, crop, 80 + crop, 60 + crop)
            photograph.crop(box).save(folder / "heldout" / name / f"{name}_{crop}.png")
    make_shards(folder / "heldout", folder / "shards", ShardSettings(split="heldout", shard_size=5))
    return folder / "shards"


def test_a_run_is_asked_beside_its_baselines(
    crops: Path, tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tuple(
        Source(name=name, group=group, path="p")
        for name, group in (("eiffel-1", "eiffel"), ("eiffel-2", "eiffel"))
    )
    monkeypatch.setattr("turbomim.train.demo.which_photograph.sources", lambda: known)
    run = pretrain(config_for(tiny_split.folder, tmp_path, optim={"epochs": 1}), console=quiet()).folder
    result = which_photograph(run, crops)
    assert result is not None
    assert json.loads((run / "eval" / "source.json").read_text()) == result
    # the near-twins are one photograph, the lonely crop is not asked
    assert (result["photographs"], result["crops"], result["step"]) == (2, 12, 5)
    scores = {name: values[MEASURE] for name, values in result["scores"].items()}
    # 2 of 4 crops of the boat and 4 of 8 of the tower in each half
    assert scores["chance"] == pytest.approx((2 * 2 + 4 * 4) / 36)
    # a pixel apart, crops of one photograph look the same
    assert scores["raw pixels"] == 1.0
    assert set(scores) == {
        *(
            f"{who}: {what}"
            for who in ("trained", "random weights")
            for what in ("class token", "mean of patch tokens")
        ),
        "raw pixels",
        "chance",
    }
    text = table_of_shares(result)
    assert f"raw pixels      {100 * scores['raw pixels']:5.1f} %" in text
    assert f"chance          {100 * scores['chance']:5.1f} %" in text
    assert "12 held-out crops of 2 photographs" in text


def test_too_few_crops_ask_nothing(tiny_split: Split, tmp_path: Path) -> None:
    run = pretrain(config_for(tiny_split.folder, tmp_path, optim={"epochs": 1}), console=quiet()).folder
    for name in ("boat", "barn"):
        (tmp_path / "few" / name).mkdir(parents=True)
        Image.fromarray(texture(3, 60, 80)).save(tmp_path / "few" / name / "a.png")
    make_shards(tmp_path / "few", tmp_path / "shards")
    assert which_photograph(run, tmp_path / "shards") is None
    assert not (run / "eval").exists()
