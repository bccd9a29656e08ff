"""The learning benchmark's parts: the time that a run gets, the textbook opponent, the table and the plot.

Planted, each seen to fail the test named: the start not taken off the time (`test_a_run_ends_with_its_time`);
the textbook's model returned as it was at the start, or trained on one batch over and over
(`test_the_textbook_learns_from_the_stream_within_its_time`); scores of the random encoder in the trained
one's row (`test_table_and_plot_show_every_score`); a line that is there run again, or written behind a cut
one (`test_what_has_results_is_not_run_again`); the deviation of a whole population, or random weights of one
seed alone (`test_seeds_are_shown_by_mean_and_sample_deviation`); the seed not passed on, or random weights
scored as the trained ones (`test_a_recipe_is_trained_on_so_many_images_and_scored`); settings not compared,
or a folder of somebody else's taken (`test_results_of_other_settings_are_not_mixed`); a run of --images begun
anew, or the minutes of a part taken for the whole (`test_a_run_that_was_cut_short_goes_on`); differences from
another seed's score, or a deviation over n (`test_differences_are_of_the_same_seed`).
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from turbomim.benchmarks.learning import bench
from turbomim.benchmarks.learning import textbook as learning_textbook
from turbomim.benchmarks.learning.bench import Speed
from turbomim.benchmarks.learning.effects import effects_table, mean_and_reach
from turbomim.benchmarks.learning.results import MEASURED, RANDOM, TRAINED, plot, table
from turbomim.benchmarks.learning.textbook import train_textbook
from turbomim.benchmarks.step.textbook_mae import TextbookMAE, normalised
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.features import PIXELS, load_run
from turbomim.train.evaluate.results import Scores
from turbomim.train.evaluate.scores import MEASURES, evaluate_model
from turbomim.train.evaluate.scoring import Scoring
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import Config, DataConfig, RunConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig


def small(split: Split, target: str = "raw") -> Config:
    return Config(
        data=DataConfig(path=str(split.folder), size=32),
        model=ModelConfig(
            patch=8, width=32, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2,
            target=target,  # type: ignore[arg-type]
            radius=6.0,
        ),
        optim=OptimConfig(epochs=10, warmup_epochs=1, base_lr=0.1, global_batch=8),
    )  # fmt: skip


def test_a_run_ends_with_its_time() -> None:
    """100 seconds, 20 of them to start: 80 x 50 images of 1,000."""
    assert Speed(around_s=20, img_per_s=50).epochs(100, 1000) == pytest.approx(4.0)


def test_the_textbook_learns_from_the_stream_within_its_time(
    tiny_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def watched(images_BHWC: torch.Tensor) -> torch.Tensor:
        seen.append(images_BHWC.clone())
        return normalised(images_BHWC)

    monkeypatch.setattr(learning_textbook, "normalised", watched)
    config = small(tiny_split)
    # begin, warm, 20 timed steps of 0.1 s: 3 of 7 seconds are gone, 40 steps fit into the rest
    clock = iter((0.0, 1.0, 3.0, 3.0))
    monkeypatch.setattr(learning_textbook, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    model, losses = train_textbook(config, seconds=7)
    assert losses[-1][0] == 40 * 8
    run = seen[-40:]
    assert len(seen) == 3 + 20 + 40 and not torch.equal(run[0], run[1])
    assert losses[-1][1] < losses[0][1]
    start = MAE(config).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, start[name]) == ("pos_embed" in name), name


def test_the_textbook_and_ours_hold_the_same_weights(tiny_split: Split) -> None:
    config = small(tiny_split)
    TextbookMAE(config).load_state_dict(MAE(config).state_dict())
    with pytest.raises(UserError, match="the textbook MAE predicts raw pixels only"):
        train_textbook(small(tiny_split, "gaussian"), seconds=1)


def line(name: str, seed: int, images: int, more: int = 0) -> dict[str, Any]:
    """A line of results whose shares are row, column and `more` per cent, no two alike."""
    return {
        "name": name,
        "seed": seed,
        "images": images,
        "minutes": 1.5,
        "losses": [[100, 1.0], [1000, 0.5]],
        "scores": {
            feature: {measure: (10 * row + column + more) / 100 for column, measure in enumerate(MEASURED)}
            for row, feature in enumerate((PIXELS, RANDOM, TRAINED), start=1)
        },
    }


def tuned(line: dict[str, Any], top1: float) -> dict[str, Any]:
    """The line with a fine-tuning's score, and without minutes: the run was resumed."""
    return {key: value for key, value in line.items() if key != "minutes"} | {
        "finetune": {"epochs": 3, "top1": top1}
    }


def test_table_and_plot_show_every_score(tmp_path: Path) -> None:
    lines = [line("one", 0, 1000), line("two", 0, 2000, 5)]
    text = table(lines)
    assert "| raw pixels |  |  |  | 10.0 | 11.0 | 12.0 |" in text
    assert "| random weights | 1 |  |  | 20.0 | 21.0 | 22.0 |" in text
    assert "| one | 1 | 1,000 | 1.5 | 30.0 | 31.0 | 32.0 |" in text
    assert "| two | 1 | 2,000 | 1.5 | 35.0 | 36.0 | 37.0 |" in text
    plot(lines, tmp_path / "new" / "learning.png")
    assert Image.open(tmp_path / "new" / "learning.png").width > 1000


def test_seeds_are_shown_by_mean_and_sample_deviation(tmp_path: Path) -> None:
    """Of 30, 31 and 35 %: mean 32, sum of squares 14, over 2, root 2.6 (over 3 it would be 2.2)."""
    lines = [line(name, seed, 1000, more) for seed, more in enumerate((0, 1, 5)) for name in ("one", "two")]
    text = table(lines)
    assert "| raw pixels |  |  |  | 10.0 | 11.0 | 12.0 |" in text
    assert "| random weights | 3 |  |  | 22.0 ± 2.6 | 23.0 ± 2.6 | 24.0 ± 2.6 |" in text
    assert "| one | 3 | 1,000 | 1.5 | 32.0 ± 2.6 | 33.0 ± 2.6 | 34.0 ± 2.6 |" in text
    assert len(text.splitlines()) == 6
    plot(lines, tmp_path / "learning.png")
    assert Image.open(tmp_path / "learning.png").width > 1000


def test_a_fine_tuning_is_a_column_of_the_trained() -> None:
    text = table([tuned(line("one", seed, 1000), 0.7 + seed / 100) for seed in range(3)])
    assert "| linear probe | fine-tuned |" in text
    assert "| raw pixels |  |  |  | 10.0 | 11.0 | 12.0 |  |" in text
    assert "| one | 3 | 1,000 |  | 30.0 ± 0.0 | 31.0 ± 0.0 | 32.0 ± 0.0 | 71.0 ± 1.0 |" in text


def test_an_interval_is_students() -> None:
    """Of 3.1, 3.6 and 3.4: mean 3.367, deviation 0.2517, times 4.303 over the root of 3: 0.625."""
    assert mean_and_reach([3.1, 3.6, 3.4]) == pytest.approx((3.36667, 0.6252), abs=1e-4)
    assert math.isnan(mean_and_reach([1.0])[1])
    stats = pytest.importorskip("scipy.stats")
    for n in range(2, 13):
        given = [0.1 * k * k for k in range(n)]
        low, high = stats.t.interval(0.95, min(n - 1, 10), np.mean(given), stats.sem(given))
        mean, reach = mean_and_reach(given)
        assert (mean - reach, mean + reach) == pytest.approx((low, high), abs=1e-3)


def test_differences_are_of_the_same_seed() -> None:
    """Seeds are worth 0, 1 and 5 points to both; the second recipe is 2, 3 and 4 above the first."""
    seeds = ((0, 0), (1, 1), (2, 5))
    base = [tuned(line("one", seed, 1000, more), 0.5) for seed, more in seeds]
    others = [tuned(line("two", seed, 1000, more + 2 + seed), 0.5 + seed / 100) for seed, more in seeds]
    assert effects_table([*base, *others]).splitlines() == [
        "| points above one (95 % interval) | n | 20 neighbours | weighted | linear probe | fine-tuned |",
        "| --- | --: | --: | --: | --: | --: |",
        f"| two | 3 |{' +3.0 (+0.5 to +5.5) |' * 3} +1.0 (-1.5 to +3.5) |",
    ]
    assert effects_table(base) == ""
    assert "| two | 1 | +2.0 | +2.0 | +2.0 | +0.0 |" in effects_table([base[0], others[0]])
    # seeds that only one of them has are no pairs
    assert "| two | 1 | +2.0 | +2.0 | +2.0 | +0.0 |" in effects_table([base[0], *others])
    assert effects_table([base[0], others[1]]) == ""


def options_of(out: Path, **changes: Any) -> argparse.Namespace:
    asked = {
        "out": out, "train": Path("train"), "test": Path("test"), "images": 512, "minutes": None,
        "samples": 100, "set": [], "seeds": [0, 1], "recipes": ["one", "two"], "textbook": False,
        "finetune": 0,
    }  # fmt: skip
    return argparse.Namespace(**{**asked, **changes})


def test_what_has_results_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short in the third of four runs, the same command runs two; more seeds run what they add."""
    ran: list[tuple[str, int]] = []
    fail_at = 2

    def learn(name: str, seed: int, options: argparse.Namespace, known: Scores) -> dict[str, Any]:
        if len(ran) == fail_at:
            raise UserError("the power failed")
        # raw pixels are scored by the first run alone
        assert known == ({PIXELS: line("one", 0, 512)["scores"][PIXELS]} if ran else {})
        ran.append((name, seed))
        return line(name, seed, options.images)

    monkeypatch.setattr(bench, "learn", learn)
    with pytest.raises(UserError, match="the power failed"):
        bench.run_all(options_of(tmp_path / "out"))
    # as a kill in the middle of a line would leave it
    with (tmp_path / "out" / "learning.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"name": "one", "se')
    fail_at = -1
    lines = bench.run_all(options_of(tmp_path / "out"))
    assert ran == [("one", 0), ("two", 0), ("one", 1), ("two", 1)]
    assert [(kept["name"], kept["seed"]) for kept in lines] == [
        ("one", 0),
        ("one", 1),
        ("two", 0),
        ("two", 1),
    ]
    bench.run_all(options_of(tmp_path / "out", seeds=[1, 2], recipes=["two"]))
    assert ran[4:] == [("two", 2)]
    kept = (tmp_path / "out" / "learning.jsonl").read_text().splitlines()
    assert [(json.loads(text)["name"], json.loads(text)["seed"]) for text in kept] == ran


def test_results_of_other_settings_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "learn", lambda name, seed, options, known: line(name, seed, options.images))
    bench.run_all(options_of(tmp_path / "out"))
    with pytest.raises(UserError, match=r"holds results of other settings \(images 512 -> 256\)"):
        bench.run_all(options_of(tmp_path / "out", images=256))
    with pytest.raises(UserError, match=r"holds results of other settings \(finetune None -> 3\)"):
        bench.run_all(options_of(tmp_path / "out", finetune=3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"is not empty and holds no learning\.json"):
        bench.run_all(options_of(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_arm_has_settings_of_its_own(tiny_split: Split, tmp_path: Path) -> None:
    options = options_of(tmp_path, train=tiny_split.folder, set=["optim.global_batch=16", "model.radius=5"])
    arm = "cifar10-pixmim-vit-t4:model.target=ideal:model.radius=6.5"
    words, config = bench.settings(arm, 2, options)
    assert (config.model.target, config.model.radius, config.optim.global_batch) == ("ideal", 6.5, 16)
    assert words[0] == "cifar10-pixmim-vit-t4" and config.run.seed == 2
    folder = bench.run_folder(arm, 2, options)
    assert folder == tmp_path / "runs" / "cifar10-pixmim-vit-t4-model.target-ideal-model.radius-6.5-seed2"
    # a name that a run may have
    RunConfig(name=folder.name)


@pytest.mark.parametrize("timed", [False, True])
def test_a_run_that_was_cut_short_goes_on(
    timed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of --images keeps its folder and says no minutes; one by the clock begins anew."""
    steps = iter((3, 5))
    commands: list[list[str]] = []

    def run(command: list[str], *, compiled: Path) -> int:
        commands.append(command)
        folder = Path(command[command.index("--run.folder") + 1], command[command.index("--run.name") + 1])
        step = next(steps)
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "steps": 5}) + "\n")
        return 0

    monkeypatch.setattr(bench, "run", run)
    folder = tmp_path / "runs" / "r"
    with pytest.raises(UserError, match=r"did not reach its end \(exit code 0\)"):
        bench.pretrain(["cifar10-vit-t4"], folder, timed=timed)
    _, records = bench.pretrain(["cifar10-vit-t4"], folder, timed=timed)
    assert [record["step"] for record in records] == ([5] if timed else [3, 5])
    assert commands[0] == commands[1]
    assert commands[0][commands[0].index("--run.save_every") + 1] == ("1000000" if timed else "200")


def test_a_recipe_is_trained_on_so_many_images_and_scored(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real way, small: 64 images of 33 in batches of 16, a seed of its own, scores of all three.

    After the pre-training the power fails: the same command trains no further, scores and fine-tunes.
    """
    small_model = (
        "model.width=48", "model.depth=1", "model.fuse=0", "model.decoder_width=24", "model.decoder_depth=1",
        "optim.global_batch=16", "optim.base_lr=0.5", "step.compile=false",
    )  # fmt: skip
    options = options_of(
        tmp_path / "out", train=tiny_split.folder, test=tiny_split.folder, images=64, seeds=[3],
        recipes=["cifar10-pixmim-mff-vit-t4"], set=list(small_model), samples=0, finetune=1,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(bench, "scored", lambda *given: 1 / 0)
        bench.run_all(options)
    metrics = tmp_path / "out" / "runs" / "cifar10-pixmim-mff-vit-t4-seed3" / "metrics.jsonl"
    before = metrics.read_text(encoding="utf-8")
    (got,) = bench.run_all(options)
    assert metrics.read_text(encoding="utf-8") == before
    assert "minutes" not in got and "img_per_s" not in got
    tuned_to = json.loads((metrics.parent / "eval" / "finetune" / "result.json").read_text(encoding="utf-8"))
    assert got["finetune"] == {"epochs": 1, "top1": tuned_to["top1"], "top5": None}
    assert tuned_to["settings"]["run"]["seed"] == 3 and tuned_to["epochs"] == 1
    assert (got["images"], got["steps"], got["seed"], got["train_samples"]) == (64, 4, 3, 33)
    config, model, step = load_run(metrics.parent)
    assert (config.run.seed, step) == (3, 4)
    assert config.optim.warmup_epochs == pytest.approx(0.1 * 63.5 / 33)
    on = Scoring(train=str(tiny_split.folder), test=str(tiny_split.folder), samples=0)
    scores = evaluate_model(model, config, MEASURES, on)["scores"]
    assert got["scores"] == scores
    known = {PIXELS: {"20 neighbours": 0.5}}
    assert evaluate_model(model, config, MEASURES, on, known)["scores"] == scores | known
    assert len({tuple(scores[name].values()) for name in (TRAINED, RANDOM, PIXELS)}) == 3
