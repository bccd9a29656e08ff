"""What a fine-tuning tests, of which weights, and on which images.

Planted, each seen to fail the test named: labels of the next sample, the train split scored
(`test_it_learns_what_can_be_told_apart`); the result of the log's last test, whatever its step
(`test_it_learns_what_can_be_told_apart`, `test_a_test_before_a_roll_back_is_of_other_weights`); shares of all
test images where one is left out (`test_a_test_image_that_cannot_be_decoded_is_left_out`); the error of a
test raised at its log line, before the last checkpoint (`test_a_test_that_fails_loses_no_step`).
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.broken_split import with_broken_image
from tests.runs import quiet, records, status
from tests.train.finetune.tuning import settings

from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import open_split
from turbomim.train.encoder.features import normalised
from turbomim.train.encoder.source import load_source
from turbomim.train.finetune.finetune import finetune, with_classes
from turbomim.train.finetune.task import find_test_of_last_weights
from turbomim.train.folder import checkpoint
from turbomim.train.models.classifier import Classifier
from turbomim.train.models.methods import make_model


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_it_learns_what_can_be_told_apart(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path, ema: float
) -> None:
    """Tested are the weights that a checkpoint gives to all: their average, where there is one."""
    optim, run = {"base_lr": 0.05, "ema": ema}, {"eval_every": 24, "save_every": 50}
    config = settings(pretrained, shards, tmp_path, 16, optim=optim, run=run)
    result = finetune(config, load_source(pretrained, {}), console=quiet())
    assert (result.status, result.step) == ("done", 48)
    found = records(result.folder)
    tested = [record for record in found if "test_top1" in record]
    assert [record["step"] for record in tested] == [24, 48]
    # of 15; a third by chance
    assert tested[-1]["test_top1"] >= 0.9 and tested[-1]["test_loss"] < 0.8
    assert found[0]["loss"] > found[-1]["loss"]
    # by the parts, of the last checkpoint
    settings_again, config = config, with_classes(config, 3)
    model = Classifier(make_model(config), config).eval()
    checkpoint.load(result.folder / "ckpt" / "step-00000048", model)
    ids = np.arange(15)
    test = open_split(shards["test"])
    ((pixels, labels),) = centre_crops(test, ids, CentreCrop(size=32), batch=15, threads=1)
    with torch.no_grad():
        logits_BK = model.logits(normalised(torch.from_numpy(pixels)))
    loss = torch.nn.functional.cross_entropy(logits_BK, torch.from_numpy(labels))
    assert tested[-1]["test_loss"] == pytest.approx(float(loss), rel=1e-5)
    # at the warm-up's end the head has the full rate, and the log says that
    assert max(record["lr"] for record in found) == pytest.approx(0.05 * 16 / 256, rel=0.1)
    # a log that lost its last line has the test of other weights
    written, metrics = (result.folder / "result.json").read_text(), result.folder / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(record) + "\n" for record in found[:-1]))
    finetune(settings_again, load_source(pretrained, {}), console=quiet())
    assert (result.folder / "result.json").read_text() == written


def test_a_test_before_a_roll_back_is_of_other_weights() -> None:
    """The loop tests at a log line, and rolls back after it."""
    first, last = ({"step": step, "skipped_in_a_row": step, "test_top1": 0.5} for step in (4, 8))
    assert find_test_of_last_weights([first, last], 8, max_skipped=9) == last
    assert find_test_of_last_weights([first, last], 8, max_skipped=8) is None
    assert find_test_of_last_weights([first, last | {"step": 7}], 8, max_skipped=9) is None


def test_a_test_image_that_cannot_be_decoded_is_left_out(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path
) -> None:
    """It is named once, and the result says so."""
    broken = with_broken_image(shards["test"], tmp_path / "broken", 4)
    config = settings(pretrained, {**shards, "test": broken.folder}, tmp_path, 1, run={"eval_every": 1})
    folder = finetune(config, load_source(pretrained, {}), console=quiet()).folder
    result = json.loads((folder / "result.json").read_text())
    assert (result["test_samples"], result["test_left_out"]) == (14, 1)
    assert result["top1"] * 14 == pytest.approx(round(result["top1"] * 14))
    log = (folder / "train.log").read_text()
    assert log.count("left out of the scores") == 1 and f"test: {broken.locate(4)}" in log
    assert "of 14 test images (1 left out); " in log
    # of the others: what the split without it gives
    kept = Classifier(make_model(with_classes(config, 3)), with_classes(config, 3)).eval()
    checkpoint.load(folder / "ckpt" / "step-00000003", kept)
    ids = np.delete(np.arange(15), 4)
    ((pixels, labels),) = centre_crops(
        open_split(shards["test"]), ids, CentreCrop(size=32), batch=15, threads=1
    )
    with torch.no_grad():
        logits_BK = kept.logits(normalised(torch.from_numpy(pixels)))
    loss = torch.nn.functional.cross_entropy(logits_BK, torch.from_numpy(labels))
    assert result["test_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_a_test_that_fails_loses_no_step(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are saved, and the same command tests them."""
    source = partial(load_source, pretrained, {})
    whole = finetune(settings(pretrained, shards, tmp_path / "whole", 1), source(), console=quiet()).folder
    config = settings(pretrained, shards, tmp_path / "own", 1, run={"save_every": 50})

    def gone(*args: Any, **more: Any) -> Any:
        raise UserError("the disk is gone")

    monkeypatch.setattr("turbomim.train.finetune.task.centre_crops", gone)
    with pytest.raises(UserError, match="the disk is gone"):
        finetune(config, source(), console=quiet())
    folder = tmp_path / "own" / "finetune"
    assert (folder / "ckpt" / "step-00000003" / "COMPLETE").exists() and status(folder)["status"] == "failed"
    assert not (folder / "result.json").exists() and len(records(folder)) == 3
    assert "not tested at this line: the disk is gone" in (folder / "train.log").read_text()
    monkeypatch.undo()
    taken = status(folder)["step"]
    found = finetune(config, source(), console=quiet())
    assert (found.status, found.step, taken, len(records(folder))) == ("done", 3, 3, 3)
    ours, theirs = (json.loads((each / "result.json").read_text()) for each in (folder, whole))
    assert {**ours, "settings": 0} == {**theirs, "settings": 0}


def test_more_than_five_outputs_have_a_top_5(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path
) -> None:
    config = settings(pretrained, shards, tmp_path, 0.3, finetune={"classes": 7})
    folder = finetune(config, load_source(pretrained, {}), console=quiet()).folder
    result = json.loads((folder / "result.json").read_text())
    assert result["scores"]["fine-tuned"] == {"top-1": result["top1"], "top-5": result["top5"]}
    assert result["top1"] <= result["top5"] == records(folder)[-1]["test_top5"]
    assert ", top-5 " in (folder / "train.log").read_text()
