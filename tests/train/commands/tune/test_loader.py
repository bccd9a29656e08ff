"""Tuning of the loader: the search on made-up rates, the file of this machine, and who reads it.

Planted bugs, and the test that each makes fail: a change made without a comparison (`wins` left out of
`descend`): `test_a_change_wins_most_rounds_or_is_not_made`; the same setting first in every round:
`test_rounds_are_judged_one_by_one`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.train.commands.test_doctor import printed

from turbomim.pipeline.loader_settings import LoaderSpeed
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.commands.tune import loader as tune_loader
from turbomim.train.commands.tune.loader import (
    Space,
    count_points,
    descend,
    faster_of_two,
    search_space,
    tune_loader_command,
    why_not_kept,
)
from turbomim.train.commands.tune.options import TuneLoader
from turbomim.train.commands.tune.paired import paired, wins
from turbomim.train.machine.checks import loader_check
from turbomim.train.machine.measurements import Tuned
from turbomim.train.machine.processor import cores, cpu_model
from turbomim.train.machine.tuned_loader import TUNED_LOADER, default_speed, rank_speed
from turbomim.train.settings.config import DataConfig

BASE = LoaderSpeed(threads=4)
FOUND = LoaderSpeed(threads=6, readers=4, prefetch=3, decode="cpu", hw_decoder_load=0.8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURBOMIM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "loader.json"


class Rates:
    """A made-up machine; remembers what was measured on it."""

    def __init__(self, **gains: dict[Any, float]) -> None:
        self.gains, self.asked = gains, list[LoaderSpeed]()

    def __call__(self, settings: LoaderSpeed) -> float:
        self.asked.append(settings)
        rate = 100.0
        for name, gain in self.gains.items():
            rate *= gain.get(getattr(settings, name), 1.0)
        return rate


def test_every_setting_is_searched_on_a_gpu() -> None:
    rates = Rates(
        threads={6: 1.5}, readers={8: 1.2}, prefetch={4: 1.1}, decode={"cpu": 0.9}, hw_decoder_load={0.8: 1.3}
    )
    best = descend(rates, BASE, search_space("cuda", 4))
    assert best == LoaderSpeed(threads=6, readers=8, prefetch=4, hw_decoder_load=0.8)
    # each of the four changes wins three rounds of two
    assert len(rates.asked) == len(set(rates.asked)) + 24, "no point is tried twice"


def test_what_a_decoder_or_a_cpu_does_not_use_is_not_searched() -> None:
    rates = Rates(decode={"cpu": 2.0}, hw_decoder_load={0.95: 5.0})
    best = descend(rates, dataclasses.replace(BASE, decode="cpu"), search_space("cuda", 4))
    assert (best.decode, best.hw_decoder_load) == ("cpu", 0.65)
    rates = Rates(threads={3: 2.0})
    descend(rates, BASE, search_space("cpu", 4))
    assert {(each.decode, each.hw_decoder_load) for each in rates.asked} == {("mixed", 0.65)}


def test_a_setting_that_pays_only_after_another_is_found() -> None:
    """More threads help only when more is read: the second pass sees it."""

    def rate(settings: LoaderSpeed) -> float:
        return 100.0 + 50 * (settings.readers >= 4) + 50 * (settings.readers >= 4 and settings.threads >= 8)

    best = descend(rate, BASE, search_space("cpu", 4))
    assert best.readers == 4 and best.threads == 8


def test_defaults_stay_where_the_gain_may_be_noise() -> None:
    rates = Rates(threads={6: 1.029}, readers={1: 1.02, 8: 1.029}, prefetch={3: 1.01})
    assert descend(rates, BASE, search_space("cpu", 4)) == BASE


def test_a_change_wins_most_rounds_or_is_not_made() -> None:
    """A value was lucky once, or is faster in two rounds of five: the search leaves it alone."""
    lucky = dataclasses.replace(BASE, threads=6)
    first = itertools.chain([2.0], itertools.repeat(1.0))
    assert descend(lambda s: 100 * (next(first) if s == lucky else 1.0), BASE, search_space("cpu", 4)) == BASE
    sometimes = itertools.chain([2.0, 2.0, 0.9, 2.0, 0.9, 0.9], itertools.repeat(1.0))
    assert (
        descend(lambda s: 100 * (next(sometimes) if s == lucky else 1.0), BASE, {"threads": (4, 6)}) == BASE
    )
    mostly = itertools.chain([2.0, 2.0, 0.9, 2.0, 0.9, 2.0], itertools.repeat(1.0))
    assert descend(lambda s: 100 * (next(mostly) if s == lucky else 1.0), BASE, {"threads": (4, 6)}) == lucky


def test_rounds_are_judged_one_by_one() -> None:
    assert wins([(100, 104), (100, 104), (100, 90), (50, 52), (200, 1)])
    assert not wins([(100, 104), (100, 104), (100, 90), (50, 51), (200, 1000), (1, 1.02)])
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        # a machine that gets slower and slower
        return 100.0 - len(order)

    rounds = paired(measure, "base", "other")
    assert order == ["base", "other", "other", "base", "base", "other"], "three lost rounds of five settle it"
    assert not wins(rounds) and not wins([(theirs, ours) for ours, theirs in rounds]), (
        "a drift favours neither"
    )


def test_a_lucky_best_does_not_win() -> None:
    """Measured again, it is no faster than the defaults."""
    lucky = dataclasses.replace(BASE, threads=6)
    best, rates = faster_of_two(lambda settings: 100.0 if settings == BASE else 102.0, BASE, lucky)
    assert best == BASE and rates == {BASE: 100.0, lucky: 102.0}
    # one round of five is disturbed
    noisy = itertools.cycle([1.0, 1.0, 1.0, 0.1, 1.0])
    best, _ = faster_of_two(lambda settings: next(noisy) * (1.5 if settings == lucky else 1.0), BASE, lucky)
    assert best == lucky


def test_settings_as_set_else_as_tuned_else_the_defaults() -> None:
    tuned = Tuned(settings=FOUND, img_per_s=1.0, date="2026-01-01")
    auto = DataConfig()
    assert rank_speed(auto, None, 1) == default_speed()
    assert rank_speed(auto, tuned, 1) == FOUND
    assert rank_speed(auto, tuned, 4) == dataclasses.replace(FOUND, threads=1), "ranks share the cores"
    assert rank_speed(auto, None, 10_000).threads == 1
    own = DataConfig(threads=9, readers=1, prefetch=7, decode="mixed", hw_decoder_load=0.0)
    chosen = LoaderSpeed(threads=9, readers=1, prefetch=7, decode="mixed", hw_decoder_load=0.0)
    assert rank_speed(own, tuned, 4) == chosen


def test_each_machine_has_its_own_entry(cache: Path) -> None:
    assert TUNED_LOADER.read("one") is None
    one = Tuned(settings=FOUND, img_per_s=1234.5, date="2026-01-01")
    two = Tuned(settings=BASE, img_per_s=2.0, date="2026-01-02")
    assert TUNED_LOADER.write("one", one, {"batch": 8}) == cache == TUNED_LOADER.file.path
    TUNED_LOADER.write("two", two, {})
    assert (TUNED_LOADER.read("one"), TUNED_LOADER.read("two"), TUNED_LOADER.read("three")) == (
        one,
        two,
        None,
    )
    assert json.loads(cache.read_text())["machines"]["one"]["batch"] == 8
    assert [path.name for path in cache.parent.iterdir()] == ["loader.json"]


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TURBOMIM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert TUNED_LOADER.file.path == tmp_path / "turbomim" / "loader.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TUNED_LOADER.file.path == tmp_path / ".cache" / "turbomim" / "loader.json"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "turbomim-loader-1", "machines": {"m": {}}}',
        '{"format": "turbomim-loader-1", "machines": {"m": {"threads": 0, "readers": 1, "prefetch": 1, '
        '"decode": "cpu", "hw_decoder_load": 0.5, "img_per_s": 1, "date": ""}}}',
    ],
)
def test_a_damaged_file_is_named(cache: Path, text: str) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    with pytest.raises(UserError, match=r"loader.json' is damaged .*: remove it") as error:
        TUNED_LOADER.read("m")
    assert "\n" not in str(error.value)


def small_space(device: str, cores: int) -> Space:
    return {"threads": (1, 2), "prefetch": (1, 2)}


def test_the_command_measures_and_the_machine_remembers(
    tiny_split: Split, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not tuned" in printed([loader_check()])
    monkeypatch.setattr(tune_loader, "LEAST_SECONDS", 0)
    monkeypatch.setattr(tune_loader, "LEAST_SAMPLES", 33)
    monkeypatch.setattr(tune_loader, "search_space", small_space)
    words = ["--data", str(tiny_split.folder), "--size", "32", "--micro-batch", "4", "--seconds", "0.2"]
    tune_loader_command([*words, "--device", "cpu", "--crop", "rrc"])
    out = capsys.readouterr().out.splitlines()
    name = f"{cpu_model()}, {cores()} cores, no GPU"
    assert out[0] == name
    assert "rrc crops of 32 pixels, bilinear, batches of 4" in out[1]
    points = [line for line in out if " img/s  threads " in line]
    assert len(points) >= 4 and all(float(line.split()[0].replace(",", "")) > 0 for line in points)
    assert out[-2].startswith("best: threads ") and "times the defaults'" in out[-2]
    assert out[-1] == f"written to {cache}"
    entry = json.loads(cache.read_text())["machines"][name]
    assert {"threads", "readers", "prefetch", "img_per_s", "default_img_per_s", "date", "versions"} <= set(
        entry
    )
    tuned = TUNED_LOADER.read(name)
    assert tuned is not None and tuned.settings.in_words("cpu") in out[-2]
    said = loader_check().value
    assert tuned.settings.in_words("cpu") in said and tuned.date in said


def test_what_means_nothing_is_not_kept(
    tiny_split: Split, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too few images, or too short.  Planted, and seen to fail: all is kept."""
    monkeypatch.setattr(tune_loader, "search_space", lambda device, cores: {"threads": (1, 2)})
    words = ["--data", str(tiny_split.folder), "--size", "32", "--micro-batch", "4", "--device", "cpu"]
    tune_loader_command([*words, "--seconds", "0.2"])
    said = "not kept for later runs: 33 images stay in memory, .*; give --data with 1,000 or more"
    assert re.fullmatch(said, capsys.readouterr().out.splitlines()[-1])
    monkeypatch.setattr(tune_loader, "LEAST_SAMPLES", 33)
    tune_loader_command([*words, "--seconds", "0.2"])
    said = "not kept for later runs: 0.014 s for each of 14 points is too short, .*; give --seconds 7 or more"
    assert re.fullmatch(said, capsys.readouterr().out.splitlines()[-1])
    assert not cache.exists()


def test_the_usual_time_is_enough_on_any_machine() -> None:
    for device in ("cpu", "cuda"):
        for count in (1, 2, 16, 64):
            space = search_space(device, count)
            assert why_not_kept(1_000, TuneLoader.seconds, count_points(space)) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "/nowhere"], "--data /nowhere does not exist"),
        (["--data", ".", "--seconds", "0"], "--seconds 0: must be above 0"),
        (["--data", ".", "--micro-batch", "0"], "--micro-batch 0: must be at least 1"),
        (["--data", ".", "--recipe", "dmo"], "unknown recipe 'dmo': did you mean demo?"),
    ],
)
def test_bad_options_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        tune_loader_command(words)
    assert message in str(error.value) and "\n" not in str(error.value)
