"""Scores while a run trains: they change nothing of it, are those of `eval`, and come when they are due.

Planted, each seen to fail the test named: the model left in evaluation mode, baselines drawn from the
training's generator (`test_scores_leave_generator_and_model_as_they_were`); a weight changed while scoring,
epochs counted from the last score (`test_training_is_bit_for_bit_the_same_with_scores`); another model
scored, splits exchanged (`test_scores_are_those_of_eval`); baselines scored again
(`test_baselines_are_said_once_and_scored_once`); records without scores counted
(`test_what_a_stop_passed_over_comes_afterwards`); an image that ends the run
(`test_an_image_that_cannot_be_decoded_is_left_out_and_named`); fresh weights in place of those of all ranks
(`test_two_ranks_and_shards_give_the_scores_of_one`); settings of scores that must not change
(`test_settings_of_scores_may_change_on_resume`).
"""

from __future__ import annotations

import io
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tests.broken_split import with_broken_image
from tests.runs import attempt, config_for, finish, launch, outcome, quiet, records, run, wait_for

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split
from turbomim.train.encoder.features import load_run
from turbomim.train.evaluate.online import KNN, PROBE, RANDOM, RAW, OnlineEval
from turbomim.train.evaluate.scores import MEASURES, evaluate_model
from turbomim.train.evaluate.scoring import Scoring
from turbomim.train.folder.log import line_of
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config
from turbomim.train.trackers.scalars import scalars_of
from turbomim.train.world.distributed import World

SCORES = [name + ending for name in (KNN, PROBE) for ending in ("", RANDOM, RAW)]


def scored_config(trees: Path, runs: Path, /, **sections: dict[str, Any]) -> Config:
    """Scores every 2 epochs of 10: 33 samples in batches of 8, an epoch is 4.125 steps."""
    sections["eval"] = {"every_epochs": 2.0, "test": str(trees), **sections.get("eval", {})}
    return config_for(trees, runs, **sections)


@pytest.fixture(scope="module")
def upside_down(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other photographs of the same classes: 21 of them, on their heads."""
    folder = tmp_path_factory.mktemp("upside-down")
    for path in sorted(photo_folder.rglob("*.jpg"))[::-1][:21]:
        (folder / "photos" / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.rotate(180).save(folder / "photos" / path.parent.name / f"{path.stem}.png")
    for name in ("ash", "birch", "cedar"):
        (folder / "photos" / name).mkdir(exist_ok=True)
    make_shards(folder / "photos", folder / "shards", ShardSettings(split="test", shard_size=9))
    return folder / "shards"


@pytest.fixture(scope="module")
def plain(trees: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without scores, in a process of its own."""
    runs = tmp_path_factory.mktemp("plain")
    run(config_for(trees, runs))
    return runs / "r"


def test_training_is_bit_for_bit_the_same_with_scores(trees: Path, plain: Path, tmp_path: Path) -> None:
    run(scored_config(trees, tmp_path))
    assert outcome(tmp_path / "r") == outcome(plain)
    found = [record for record in records(tmp_path / "r") if KNN in record]
    # of 42 steps those that first reach 2, 4, 6, 8 and 10 epochs; the last one is the end, too
    assert [record["step"] for record in found] == [math.ceil(k * 33 / 8) for k in (2, 4, 6, 8)] + [42]
    for record in found:
        assert all(0 <= record[name] <= 1 for name in SCORES)
        assert [record[name] for name in SCORES if name.endswith((RANDOM, RAW))] == [
            found[0][name] for name in SCORES if name.endswith((RANDOM, RAW))
        ]
    assert len({record[PROBE] for record in found}) > 1, "scores of a model that trains"


def test_scores_are_those_of_eval(trees: Path, upside_down: Path, tmp_path: Path) -> None:
    sections: dict[str, dict[str, Any]] = {"optim": {"epochs": 2}, "eval": {"test": str(upside_down)}}
    folder = pretrain(scored_config(trees, tmp_path, **sections), console=quiet()).folder
    config, model, _ = load_run(folder)
    on = Scoring(train=str(trees), test=str(upside_down), samples=0, device="cpu")
    scores = evaluate_model(model, config, MEASURES, on)["scores"]
    last = records(folder)[-1]
    for feature, ending in (("trained: ", ""), ("random weights: ", RANDOM), ("raw pixels", RAW)):
        values = scores[feature if ending == RAW else f"{feature}mean of patch tokens"]
        assert last[KNN + ending] == pytest.approx(values["20 neighbours"])
        assert last[PROBE + ending] == pytest.approx(values["linear probe"])
    assert len({last[PROBE + ending] for ending in ("", RANDOM, RAW)}) > 1
    assert last[KNN] == scalars_of(last)[KNN]
    assert f"knn {100 * last[KNN]:.1f}%  probe {100 * last[PROBE]:.1f}%" in line_of(last)


def test_baselines_are_said_once_and_scored_once(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped and gone on, a run takes them from its log; the scores that are due come after that."""
    config = scored_config(trees, tmp_path, run={"save_every": 10_000})
    process = launch(attempt, config)
    wait_for(lambda: any(KNN in r for r in records(tmp_path / "r")), process)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 0
    before = records(tmp_path / "r")
    first = next(r for r in before if KNN in r)
    calls: list[dict[str, str]] = []
    score = OnlineEval._score

    def counted(self: OnlineEval, model: Any, endings: dict[str, str]) -> dict[str, float]:
        calls.append(endings)
        return score(self, model, endings)

    monkeypatch.setattr(OnlineEval, "_score", counted)
    said = io.StringIO()
    pretrain(config, console=Console(file=said, width=400))
    after = [r for r in records(tmp_path / "r") if KNN in r]
    assert {r["step"] for r in after} >= {first["step"], 42}
    assert len(calls) == len(after) - sum(KNN in r for r in before)
    assert not any(RANDOM in endings.values() for endings in calls), "random weights were scored again"
    assert all(r[KNN + RANDOM] == first[KNN + RANDOM] for r in after)
    assert f"20 neighbours {100 * first[KNN + RAW]:.1f} % of raw pixels" in said.getvalue()
    assert "MAE's neighbours are low by nature, see docs/learning.md" in said.getvalue()


def test_what_a_stop_passed_over_comes_afterwards(
    trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop waits for no scores: its record has none, and the first log line of the next process does."""
    config = scored_config(trees, tmp_path, eval={"probe": False, "every_epochs": 1.0})
    world = World(device=torch.device("cpu"))
    split = open_split(trees)

    def due(kept: list[dict[str, Any]], epoch: float, end: bool = False) -> bool:
        online = OnlineEval(config, (split, split), world, kept, print)
        monkeypatch.setattr(OnlineEval, "_score", lambda self, model, endings: {"scored": 1.0})
        return bool(online.scores(lambda: None, epoch, end=end))  # type: ignore[arg-type,return-value]

    at = [{"epoch": 0.9}, {"epoch": 1.1, KNN: 0.5}, {"epoch": 2.2}]
    assert not due(at[:1], 0.95) and due(at[:1], 1.0)
    assert not due(at[:2], 1.9) and due(at[:2], 1.95, end=True)
    # the record of epoch 2.2, of a stop, has no scores
    assert due(at, 2.3) and due(at, 2.0)


def test_two_ranks_and_shards_give_the_scores_of_one(trees: Path, tmp_path: Path) -> None:
    """Rank 0 scores the whole model, while the other waits; sharded weights are put together first."""
    one = pretrain(scored_config(trees, tmp_path / "one", optim={"epochs": 2}), console=quiet()).folder
    (tmp_path / "two").mkdir()
    run(scored_config(trees, tmp_path / "two", optim={"epochs": 2}, step={"shard": True}), 2)
    mine, theirs = (records(folder)[-1] for folder in (one, tmp_path / "two" / "r"))
    for name in SCORES:
        assert theirs[name] == pytest.approx(mine[name], abs=0.1), name
    assert theirs[KNN + RAW] == mine[KNN + RAW]


def test_an_image_that_cannot_be_decoded_is_left_out_and_named(trees: Path, tmp_path: Path) -> None:
    """Training goes on without it, and so do the scores."""
    split = with_broken_image(trees, tmp_path / "broken", 4)
    config = scored_config(trees, tmp_path, eval={"train": str(split.folder), "probe": False})
    world = World(device=torch.device("cpu"))
    notes: list[str] = []
    online = OnlineEval(config, (split, open_split(trees)), world, [], notes.append)
    assert online.begin()
    assert len(notes) == 1 and "-000000.tar:" in notes[0] and "left out of the scores" in notes[0]
    features = online._features(split, load_model(config))
    assert len(features.labels_N) == 32


def load_model(config: Config) -> Any:
    from turbomim.train.models.mae import MAE

    return MAE(config)


def test_scores_leave_generator_and_model_as_they_were(trees: Path, tmp_path: Path) -> None:
    config = scored_config(trees, tmp_path, eval={"probe": False})
    split = open_split(trees)
    online = OnlineEval(config, (split, split), World(device=torch.device("cpu")), [], print)
    before = torch.get_rng_state()
    assert "20 neighbours" in online.begin()
    assert torch.equal(torch.get_rng_state(), before)
    model = load_model(config).train()
    online.scores(lambda: model, 10.0, end=True)
    assert model.training, "the model goes on training"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"test": ""}, "there is no split to score; give one that has the classes"),
        ({"test": "/nowhere"}, "no manifest.json in '/nowhere'"),
        ({"test": "FLAT"}, "has no classes to tell apart; give shards of a folder of images a class"),
        ({"test": "TWO"}, "have other classes"),
        ({"samples": 3}, "eval.samples = 3: must be at least 20"),
        ({"every_epochs": -1.0}, "eval.every_epochs = -1.0: must be 0"),
    ],
    ids=["no test", "nowhere", "no classes", "other classes", "samples", "every"],
)
def test_what_cannot_be_scored_is_one_line_before_anything_trains(
    trees: Path, photo_folder: Path, tmp_path: Path, wanted: dict[str, Any], message: str
) -> None:
    if wanted.get("test") == "FLAT":
        make_shards(photo_folder / "ash", tmp_path / "flat")
    if wanted.get("test") == "TWO":
        for name in ("ash", "birch"):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for path in (photo_folder / name).iterdir():
                (tmp_path / "photos" / name / path.name).write_bytes(path.read_bytes())
        make_shards(tmp_path / "photos", tmp_path / "two")
    places = {"FLAT": str(tmp_path / "flat"), "TWO": str(tmp_path / "two")}
    wanted = {key: places.get(value, value) for key, value in wanted.items()}
    with pytest.raises(UserError, match=message) as error:
        pretrain(scored_config(trees, tmp_path, eval=wanted), console=quiet())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r").exists()


def test_settings_of_scores_may_change_on_resume(trees: Path, tmp_path: Path) -> None:
    pretrain(config_for(trees, tmp_path, optim={"epochs": 1}), console=quiet())
    found = pretrain(scored_config(trees, tmp_path, optim={"epochs": 1}), console=quiet())
    assert (found.status, np.isfinite(records(found.folder)[-1]["loss"])) == ("done", True)
