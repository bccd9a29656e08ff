"""Settings that do nothing are said, in a line each; those of the recipe are not.

Planted: a condition turned round fails `test_what_does_nothing_is_said` or `test_what_is_read_is_not_said`.
"""

from __future__ import annotations

import pytest

from turbomim.train.recipes.command_line import config_of
from turbomim.train.recipes.idle import idle_settings
from turbomim.train.recipes.table import RECIPES, recipe

LONG = "the run has 100 steps, and its end comes first"
IDLE: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"data.rrc_scale": 0.5}, {"data.crop": "rrc"}, "data.crop is src"),
    ({"data.window": 3}, {"data.shuffle": "window"}, "data.shuffle is full"),
    ({"data.hw_decoder_load": 0.5, "data.decode": "cpu"}, {"data.decode": "mixed"}, "data.decode is cpu"),
    ({"model.radius": 9.0, "model.target": "raw"}, {"model.target": "ideal"}, "model.target is raw"),
    ({"optim.lr_drop_epochs": 30.0}, {"optim.schedule": "step"}, "optim.schedule is cosine"),
    (
        {"optim.min_lr": 1e-6, "optim.schedule": "step", "optim.lr_drop_epochs": 10},
        {"optim.schedule": "cosine"},
        "optim.schedule is step",
    ),
    ({"optim.decay_epochs": 1.0}, {"optim.schedule": "wsd"}, "optim.schedule is cosine"),
    ({"optim.momentum": 0.9}, {"optim.name": "muon"}, "optim.name is adamw"),
    ({"optim.ns_steps": 3}, {"optim.name": "muon"}, "optim.name is adamw"),
    ({"optim.beta1": 0.8, "optim.name": "lars"}, {"optim.name": "lamb"}, "optim.name is lars"),
    ({"optim.beta2": 0.8, "optim.name": "lars"}, {"optim.name": "muon"}, "optim.name is lars"),
    ({"optim.eps": 1e-6, "optim.name": "lars"}, {"optim.name": "adamw"}, "optim.name is lars"),
    (
        {"optim.warmup_start": 0.5, "optim.warmup_epochs": 0},
        {"optim.warmup_epochs": 1},
        "optim.warmup_epochs is 0",
    ),
    (
        {"step.compile_mode": "reduce-overhead", "step.compile": False},
        {"step.compile": True},
        "step.compile is false",
    ),
    ({"run.log_every": 101}, {"run.log_every": 100}, LONG),
    ({"run.save_every": 101}, {"run.save_every": 100}, LONG),
    (
        {"run.picture_every": 101},
        {"run.picture_every": 100},
        LONG,
    ),
    ({"run.eval_every": 10}, {"data.heldout": "x"}, "data.heldout is empty"),
    ({"eval.samples": 100}, {"eval.every_epochs": 1}, "eval.every_epochs is 0"),
    ({"eval.train": "x"}, {"eval.every_epochs": 1}, "eval.every_epochs is 0"),
]


@pytest.mark.parametrize(("given", "_", "why"), IDLE, ids=[next(iter(given)) for given, _, _ in IDLE])
def test_what_does_nothing_is_said(given: dict[str, object], _: dict[str, object], why: str) -> None:
    name, value = next(iter(given.items()))
    assert f"{name} = {value} does nothing: {why}" in idle_settings(config_of("demo", given), 100, "cuda", 2)


@pytest.mark.parametrize(("given", "more", "_"), IDLE, ids=[next(iter(given)) for given, _, _ in IDLE])
def test_what_is_read_is_not_said(given: dict[str, object], more: dict[str, object], _: str) -> None:
    name = next(iter(given))
    said = idle_settings(config_of("demo", {**given, **more}), 100, "cuda", 2)
    assert not [line for line in said if line.startswith(name)]


def test_a_drop_after_the_end_does_nothing() -> None:
    given = {"optim.schedule": "step", "optim.lr_drop_epochs": 500, "optim.epochs": 100}
    assert idle_settings(config_of("demo", given), 100, "cuda", 2) == [
        "optim.lr_drop_epochs = 500.0 does nothing: the run ends before, after 100 epochs"
    ]


def test_what_needs_a_gpu_or_ranks_does_nothing_without() -> None:
    given = {"data.decode": "mixed", "data.hw_decoder_load": 0.5, "step.shard": True}
    config = config_of("demo", given)
    assert idle_settings(config, 100, "cpu", 1) == [
        "data.decode = mixed does nothing: the run is on a CPU",
        "data.hw_decoder_load = 0.5 does nothing: the run is on a CPU",
        "step.shard = True does nothing: the run has one rank",
    ]
    assert idle_settings(config, 100, "cuda", 2) == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_nothing_to_say(name: str) -> None:
    assert idle_settings(recipe(name), 1, "cpu", 1) == []
