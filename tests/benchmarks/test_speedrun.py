"""The speed-run: one process by the clock, its rules, and what is a record.

Planted, each seen to fail the test named: --set not passed on, the run's length changed, or a line that is
there run again (`test_a_speed_run_is_one_process_by_the_clock`); the best seed in place of the mean
(`test_a_record_is_the_mean_over_the_seeds`); labels or held-out images allowed
(`test_a_speed_run_reads_no_label_and_no_other_image`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from turbomim.benchmarks.learning import speedrun
from turbomim.benchmarks.learning.results import TRAINED
from turbomim.benchmarks.learning.speedrun import NEIGHBOURS, PROBE
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.features import load_run
from turbomim.train.evaluate.scores import MEASURES, evaluate_model
from turbomim.train.evaluate.scoring import Scoring

SMALL_MODEL = ("model.width=48", "model.depth=1", "model.decoder_width=24", "model.decoder_depth=1")


def speed_options(split: Split, out: Path, **changes: Any) -> argparse.Namespace:
    length = ("optim.steps=4", "optim.global_batch=16", "step.compile=false")
    asked = {
        "out": out, "train": split.folder, "test": split.folder, "recipe": "cifar10-vit-t4",
        "set": [*SMALL_MODEL, *length], "seeds": [3], "samples": 0, "target": 60.0,
    }  # fmt: skip
    return argparse.Namespace(**{**asked, **changes})


def test_a_speed_run_is_one_process_by_the_clock(tiny_split: Split, tmp_path: Path) -> None:
    """The real way, small: a run as long as --set says, then its scores; the same command runs nothing."""
    out = tmp_path / "out"
    (got,) = speedrun.run_all(speed_options(tiny_split, out))
    assert (got["name"], got["seed"], got["steps"], got["images"]) == ("cifar10-vit-t4", 3, 4, 64)
    config, model, step = load_run(out / "1-cifar10-vit-t4-seed3")
    assert (config.run.seed, config.model.width, step) == (3, 48, 4)
    on = Scoring(train=str(tiny_split.folder), test=str(tiny_split.folder), samples=0)
    assert got["scores"] == evaluate_model(model, config, MEASURES, on)["scores"]
    # the process starts and ends within the clock, and its time on the cores is its own
    assert 0 < got["start_and_end_s"] + got["first_steps_s"] <= 60 * got["minutes"] + 0.5
    assert got["first_steps"] == 4 and got["cpu_minutes"] > 0
    assert got["precision"] == "float32"
    assert {"load_before", "cores", "commit", "versions", "cpu"} <= set(got)
    assert [json.loads(text) for text in (out / "speedrun.jsonl").read_text().splitlines()] == [got]
    assert speedrun.run_all(speed_options(tiny_split, out)) == [got]
    assert "| cifar10-vit-t4 model.width=48" in speedrun.table([got], 60.0)


def test_a_record_is_the_mean_over_the_seeds() -> None:
    """56, 59 and 68 % are 61 in the mean; 55, 58 and 64 % are 59, though one seed has more than 60."""
    about = {"name": "one", "settings": ["optim.epochs=5"], "images": 1000, "commit": "abc"}
    rates = {"cpu_minutes": 2.5, "img_per_s": 1234.4, "precision": "float32"}

    def lines(*per_cent: int) -> list[dict[str, Any]]:
        scores = [{TRAINED: {PROBE: each / 100, NEIGHBOURS: 0.4}} for each in per_cent]
        return [
            {**about, **rates, "seed": seed, "minutes": seed + 1.0, "scores": of_seed}
            for seed, of_seed in enumerate(scores)
        ]

    row = "| one optim.epochs=5 | abc | float32 | 0, 1, 2 | 2.00 | 2.50 | 1,000 | 1,234 |"
    assert f"{row} 56.00, 59.00, 68.00 | 61.00 | yes | nan |" in speedrun.table(lines(56, 59, 68), 60.0)
    assert f"{row} 55.00, 58.00, 64.00 | 59.00 | no | nan |" in speedrun.table(lines(55, 58, 64), 60.0)
    # another commit, or precision, is another row
    for change in ({"commit": "def"}, {"precision": "bfloat16"}):
        both = speedrun.table([*lines(56), *(each | change for each in lines(58))], 60.0)
        assert len(both.splitlines()) == 4


@pytest.mark.parametrize("setting", ["data.heldout=shards/test", "eval.every_epochs=1.0"])
def test_a_speed_run_reads_no_label_and_no_other_image(
    setting: str, tiny_split: Split, tmp_path: Path
) -> None:
    options = speed_options(tiny_split, tmp_path / "out", set=[setting])
    with pytest.raises(UserError, match=f"{setting.replace('=', ' ')}: a speed-run reads train images alone"):
        speedrun.run_all(options)
