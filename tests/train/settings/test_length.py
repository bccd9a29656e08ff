"""The length of a run in epochs or steps, and what keeps its share of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from turbomim.pipeline.system.errors import UserError
from turbomim.train.recipes.command_line import config_of, parse_config
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.dictionary import to_dict
from turbomim.train.settings.plan import make_plan
from turbomim.train.settings.schedule import lr_of_step, total_steps, with_steps


def test_length_of_a_run() -> None:
    assert total_steps(300, 1_281_167, 4096) == 93_836
    assert total_steps(1, 64, 64) == 1
    assert total_steps(1.5, 10, 4) == 4


def test_a_named_decay_keeps_its_share_of_a_shorter_run(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        "recipe: mae-vit-b16-800e\noptim: {schedule: wsd, decay_epochs: 100, warmup_epochs: 40}\n"
    )
    assert config_of("", {"optim.epochs": 80}, file).optim.decay == pytest.approx(10)
    assert config_of("", {"optim.epochs": 1600}, file).optim.decay == 100
    assert with_steps(config_of("", {"optim.steps": 100}, file), 40960).optim.decay == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("words", "samples", "epochs", "warmup"),
    [
        # of 800 epochs with a warm-up of 40: 100 steps of 64 are 10 passes over 640 samples
        ((), 640, 10, 0.5),
        # more passes than the recipe's leave warm-up as it is
        ((), 4, 1600, 40),
        (("--optim.warmup_epochs", "2"), 640, 10, 2),
        (("--optim.warmup_epochs", "0"), 640, 10, 0),
    ],
)
def test_steps_take_the_place_of_epochs(
    words: tuple[str, ...], samples: int, epochs: float, warmup: float
) -> None:
    given = ["mae-vit-b16-800e", "--optim.global_batch", "64", "--optim.steps", "100", *words]
    config = parse_config(given)[0]
    settled = with_steps(config, samples)
    optim = settled.optim
    assert (optim.epochs, optim.warmup_epochs) == pytest.approx((epochs, warmup))
    assert make_plan(settled, samples, 1).steps == 100
    # what a run writes, and goes on from
    assert with_steps(settled, samples) == settled


def test_a_warm_up_beyond_the_steps_is_refused() -> None:
    """It is named, and is no share of anything."""
    config = config_of("mae-vit-b16-800e", {"optim.steps": 100, "optim.warmup_epochs": 40})
    with pytest.raises(UserError, match=r"optim\.warmup_epochs = 40.*: must be 0 to 10, the epochs"):
        with_steps(config, 4096 * 10)


@pytest.mark.parametrize(
    ("given", "warmup", "drop"),
    [({}, 1.25, 87.5), ({"optim.warmup_epochs": 2}, 2, 87.5), ({"optim.lr_drop_epochs": 90}, 1.25, 90)],
)
def test_of_steps_warm_up_and_drop_are_shares_each_on_its_own(
    tmp_path: Path, given: dict[str, float], warmup: float, drop: float
) -> None:
    """As of as many epochs, where 100 of 800 take the place of steps; in a file as by flags.

    Planted, and seen to fail: one that is named leaves the other as long as it is of 800.
    """
    file = tmp_path / "f.yaml"
    lines = "".join(f", {name.partition('.')[2]}: {value}" for name, value in given.items())
    file.write_text(f"optim: {{steps: 450{lines}}}\n")
    by_steps = config_of("simmim-swinv2-b-800e", {"optim.steps": 450, **given})
    samples = 450 * by_steps.optim.global_batch // 100
    for config in (
        with_steps(by_steps, samples),
        with_steps(config_of("simmim-swinv2-b-800e", {"run.name": "n"}, file), samples),
        config_of("simmim-swinv2-b-800e", {"optim.epochs": 100, **given}),
    ):
        optim = config.optim
        assert (optim.epochs, optim.warmup_epochs, optim.lr_drop_epochs) == pytest.approx((100, warmup, drop))
        assert type(optim.warmup_epochs) is type(optim.lr_drop_epochs) is float


def test_a_warm_up_longer_than_the_recipes_epochs_fits_steps() -> None:
    config = config_of("cifar10-vit-t4", {"optim.steps": 1000, "optim.warmup_epochs": 20})
    assert with_steps(config, 256 * 10).optim.warmup_epochs == 20


def test_a_file_with_epochs_and_steps_is_a_runs_own(tmp_path: Path) -> None:
    """By hand, warm-up would be a share of epochs that do not count."""
    file = tmp_path / "f.yaml"
    file.write_text("recipe: mae-vit-b16-800e\noptim: {epochs: 3, steps: 5, warmup_epochs: 1}\n")
    with pytest.raises(UserError, match=r"f\.yaml: optim\.epochs and optim\.steps both say how long"):
        config_of("", {}, file)
    file.write_text(file.read_text().replace("epochs: 3, ", ""))
    assert with_steps(config_of("", {}, file), 4096).optim.warmup_epochs == 1


@pytest.mark.parametrize(
    ("trial", "longer", "warmup"),
    [
        ({}, {"optim.epochs": 100}, 5),
        ({}, {"optim.steps": 100}, 5),
        # what the trial named counts on
        ({"optim.warmup_epochs": 0.5}, {"optim.epochs": 100}, 0.5),
    ],
)
def test_a_longer_run_after_a_trial_has_the_recipes_warm_up(
    tmp_path: Path, trial: dict[str, float], longer: dict[str, float], warmup: float
) -> None:
    """Planted, and seen to fail: the warm-up of the trial's 12 steps."""
    file, samples = tmp_path / "config.yaml", 4096
    config = with_steps(config_of("mae-vit-b16-800e", {"optim.steps": 12, **trial}), samples)
    assert config.optim.warmup_epochs == pytest.approx(trial.get("optim.warmup_epochs", 0.6))
    file.write_text(yaml.safe_dump(to_dict(config)))
    assert config_of("", {}, file) == config
    again = with_steps(config_of("", longer, file), samples)
    assert (again.optim.epochs, again.optim.warmup_epochs) == pytest.approx((100, warmup))


def test_a_run_has_as_many_steps_as_were_asked_for_whatever_rounding_says() -> None:
    base = recipe("cifar10-vit-t4")
    for samples in range(3, 400, 7):
        for batch in (3, 8, 64):
            optim = replace(base.optim, steps=97, global_batch=batch, micro_batch=0)
            settled = with_steps(replace(base, optim=optim), samples)
            assert make_plan(settled, samples, 1).steps == 97
            assert lr_of_step(96, samples, settled.optim) < settled.optim.lr / 100


def test_the_later_of_steps_and_epochs_counts(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("recipe: mae-vit-b16-800e\noptim: {steps: 100}\n")
    optim = config_of("", {"optim.epochs": 400}, file).optim
    assert (optim.steps, optim.epochs, optim.warmup_epochs) == (0, 400, 20)
    file.write_text("recipe: mae-vit-b16-800e\noptim: {epochs: 400}\n")
    optim = config_of("", {"optim.steps": 100}, file).optim
    assert (optim.steps, optim.epochs, optim.warmup_epochs) == (100, 800, 40)
    with pytest.raises(UserError, match=r"optim\.epochs and optim\.steps both say how long the run is"):
        config_of("", {"optim.epochs": 400, "optim.steps": 100}, file)
    assert config_of("", {"optim.epochs": 400, "optim.steps": 0}, file).optim.steps == 0


@pytest.mark.parametrize(("more", "warmup"), [("", 40), (", warmup_epochs: 8", 8)])
def test_warm_up_is_a_share_of_the_recipes_epochs(tmp_path: Path, more: str, warmup: float) -> None:
    """Planted, and seen to fail: a share of what the file's fewer epochs had made of it, 4 of 800."""
    file = tmp_path / "f.yaml"
    file.write_text(f"recipe: mae-vit-b16-800e\noptim: {{epochs: 80{more}}}\n")
    assert config_of("", {"optim.epochs": 800}, file).optim.warmup_epochs == warmup
    optim = config_of("", {"optim.steps": 100}, file).optim
    assert optim.warmup_epochs / optim.epochs == (0.1 if more else 0.05)
