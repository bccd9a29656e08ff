"""Tuning of the step: the search on made-up rates, what is kept, and the run that reads it.

Planted bugs, and the test that each makes fail: a change kept after one lucky measurement
(`wins` left out of `search`): `test_a_lucky_point_does_not_win`; a failure that ends the search:
`test_a_candidate_that_fails_costs_itself`; CUDA graphs with two micro-steps, or with shards:
`test_cuda_graphs_are_refused_where_they_cannot_be_right`; a micro-batch that is not cut to a rank's
share: `test_an_automatic_micro_batch_is_as_tuned`; a faster mode with other gradients kept:
`test_a_mode_that_computes_something_else_is_left_out`; a key of some of the model's settings:
`test_models_that_differ_in_anything_share_no_settings`.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.runs import config_for, keep_float32, quiet

from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.commands.tune import step as tune_step
from turbomim.train.commands.tune import step_rate
from turbomim.train.commands.tune.step import run_step_rate, search, settings_that_fit
from turbomim.train.folder.log import read_metrics
from turbomim.train.machine.measurements import Tuned, machine_name
from turbomim.train.machine.memory import GIB
from turbomim.train.machine.tuned_step import TUNED_STEP, StepSettings, resolve_step, step_key
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config, StepConfig
from turbomim.train.settings.dictionary import from_dict
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.plan import largest_divisor, make_plan
from turbomim.train.world.distributed import World

CPU = World(device=torch.device("cpu"))
FITS = [StepSettings(micro_batch=n, recompute=r) for r in (False, True) for n in (64, 32, 16, 8)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURBOMIM_CACHE_DIR", str(tmp_path / "cache"))
    keep_float32()
    return tmp_path / "cache" / "step.json"


def rates(given: dict[StepSettings, float], other: float = 90.0) -> Callable[[StepSettings], float]:
    return lambda settings: given.get(settings, other)


def test_the_largest_that_runs_stays_unless_another_is_faster() -> None:
    plain = {n: StepSettings(micro_batch=n) for n in (64, 32, 16, 8)}
    assert search(rates({plain[64]: 100}), FITS, graphs=False) == plain[64]
    assert search(rates({plain[64]: 0, plain[32]: 100}), FITS, graphs=False) == plain[32]
    assert search(rates({plain[64]: 100, plain[32]: 120, plain[16]: 130}), FITS, graphs=False) == plain[16]


def test_cuda_graphs_and_recomputation_are_tried_where_they_can_help() -> None:
    plain, graphed = (
        StepSettings(micro_batch=64),
        StepSettings(micro_batch=64, compile_mode="reduce-overhead"),
    )
    asked: list[StepSettings] = []

    def measure(settings: StepSettings) -> float:
        asked.append(settings)
        return 150.0 if settings == graphed else 100.0

    assert search(measure, FITS, graphs=True) == graphed
    assert not any(settings.recompute for settings in asked), "the largest micro-batch runs without"
    asked.clear()
    assert search(measure, FITS, graphs=False) == plain and graphed not in asked
    # 64 runs only with recomputation, and is faster than what runs without
    wide = StepSettings(micro_batch=64, recompute=True)
    assert search(rates({plain: 0, wide: 130}), FITS, graphs=False) == wide
    assert search(rates({plain: 0, wide: 91}), FITS, graphs=False) == StepSettings(micro_batch=32)
    nothing = {settings: 0.0 for settings in FITS if not settings.recompute}
    assert search(rates(nothing), FITS, graphs=False) == wide
    with pytest.raises(UserError, match="no step runs here"):
        search(lambda settings: 0.0, FITS, graphs=False)


def test_a_lucky_point_does_not_win() -> None:
    lucky, calls = StepSettings(micro_batch=32), itertools.count()

    def measure(settings: StepSettings) -> float:
        return 200.0 if settings == lucky and next(calls) == 0 else 100.0

    assert search(measure, FITS, graphs=False) == StepSettings(micro_batch=64)


def test_what_cannot_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(step=StepConfig(device="cpu", precision="bfloat16"))
    monkeypatch.setattr(tune_step, "device_bytes", lambda device: 8 * GIB)
    tried = settings_that_fit(config, CPU, 512)
    # ViT-B/16: 13.0 GiB for 256 images, 7.4 for 128; with recomputation 6.7 for 512
    assert tried[0] == StepSettings(micro_batch=128)
    assert next(settings for settings in tried if settings.recompute).micro_batch == 512
    fits = settings_that_fit(config, CPU, 96)
    assert [settings.micro_batch for settings in fits if not settings.recompute] == [96, 48, 24, 12, 6, 3]


def test_an_automatic_micro_batch_is_as_tuned() -> None:
    found = StepSettings(micro_batch=256, compile_mode="reduce-overhead", recompute=True)
    tuned = Tuned(settings=found, img_per_s=1.0, date="2026-01-01")
    config = Config()
    for ranks, micro_batch in ((1, 256), (8, 256), (64, 64), (24, 170), (4096, 1)):
        resolved = resolve_step(config, tuned, ranks)
        assert resolved.optim.micro_batch == micro_batch, ranks
        # CUDA graphs take one micro-step
        mode = "reduce-overhead" if ranks in (24, 64, 4096) else "default"
        assert (resolved.step.compile_mode, resolved.step.recompute) == (mode, True)
        assert (resolved.optim.global_batch, resolved.optim.lr) == (4096, config.optim.lr)
    assert resolve_step(config, None, 8) == config
    own = dataclasses.replace(config, optim=dataclasses.replace(config.optim, micro_batch=32))
    assert resolve_step(own, tuned, 8) == own
    assert [largest_divisor(96, most) for most in (1, 5, 31, 96, 500)] == [1, 4, 24, 96, 96]


def test_each_model_and_size_has_its_own_entry(cache: Path, tmp_path: Path) -> None:
    one = config_for(tmp_path, tmp_path)
    keys = {
        step_key(config, CPU)
        for config in (
            one,
            config_for(tmp_path, tmp_path, data={"size": 64}),
            config_for(tmp_path, tmp_path, model={"depth": 3}),
            config_for(tmp_path, tmp_path, step={"compile": True}),
            config_for(tmp_path, tmp_path, step={"precision": "bfloat16"}),
        )
    }
    assert len(keys) == 5
    tuned = Tuned(settings=StepSettings(micro_batch=4), img_per_s=12.5, date="2026-01-01")
    TUNED_STEP.write(step_key(one, CPU), tuned, {"images": 8})
    assert TUNED_STEP.read(step_key(one, CPU)) == tuned
    assert sum(TUNED_STEP.read(key) is not None for key in keys) == 1
    assert step_key(config_for(tmp_path, tmp_path, run={"seed": 5}), CPU) == step_key(one, CPU)


@pytest.mark.parametrize("name", [f.name for f in fields(ModelConfig)])
def test_models_that_differ_in_anything_share_no_settings(name: str) -> None:
    """The method's own, and those to come, too; checks are passed over, as no model has all settings."""
    one, two = Config(), Config(model=ModelConfig())
    value = getattr(one.model, name)
    object.__setattr__(two.model, name, not value if isinstance(value, bool) else value + type(value)(1))
    assert (step_key(one, CPU) != step_key(two, CPU)) == (name != "encoder"), "a name for sizes alone is none"


def test_a_key_is_read_by_people() -> None:
    key = step_key(recipe("simmim-swinv2-b-800e"), CPU).split("; ")
    assert key[0] == machine_name(CPU.device)
    assert key[1].startswith("simmim-swinv2 with patch 4, width 128, heads 4, ") and "window 12" in key[1]
    assert key[2] == "192 pixels, float32, compiled"
    assert step_key(Config(), CPU).split("; ")[1:] == ["mae", "224 pixels, float32, compiled"]


@pytest.mark.parametrize(
    "entry", [{}, {"micro_batch": 0, "compile_mode": "default", "recompute": False}, {"micro_batch": "8"}, []]
)
def test_a_damaged_file_is_named(cache: Path, entry: object) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text(json.dumps({"format": "turbomim-step-1", "machines": {"k": entry}}))
    with pytest.raises(UserError, match=r"step.json' is damaged .*: remove it; `turbomim tune step` makes"):
        TUNED_STEP.read("k")


def test_a_run_says_that_it_uses_what_was_tuned(tiny_split: Split, tmp_path: Path) -> None:
    config = config_for(tiny_split.folder, tmp_path / "tuned", optim={"epochs": 2})
    tuned = Tuned(settings=StepSettings(micro_batch=6), img_per_s=1.0, date="2026-01-01")
    path = TUNED_STEP.write(step_key(config, CPU), tuned, {})
    plain = config_for(tiny_split.folder, tmp_path / "plain", optim={"epochs": 2, "micro_batch": 8})
    for each in (config, plain):
        pretrain(each, console=quiet())
    said, unsaid = ((tmp_path / name / "r" / "train.log").read_text() for name in ("tuned", "plain"))
    assert f"step: micro-batch 4, tuned on this machine on 2026-01-01, see {path}" in said
    assert "effective batch 8 = 4 x 2 x 1" in said and "effective batch 8 = 8 x 1 x 1" in unsaid
    assert "tuned on this machine on 2026" not in unsaid
    losses = [
        [r["loss"] for r in read_metrics(tmp_path / name / "r" / "metrics.jsonl")]
        for name in ("tuned", "plain")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def in_this_process(config: Config, images: int, seconds: float) -> dict[str, Any]:
    """As `measured`, without a process."""
    optim = dataclasses.replace(config.optim, global_batch=images)
    return asdict(step_rate.step_rate(dataclasses.replace(config, optim=optim), seconds))


WORDS = [
    "demo", "--data.size", "32", "--model.patch", "8", "--model.width", "32", "--model.depth", "1",
    "--model.heads", "2", "--model.radius", "6", "--step.compile", "false", "--step.device", "cpu",
    "--seconds", "0.05",
]  # fmt: skip


def test_the_command_measures_and_pretrain_will_read_it(
    tiny_split: Split, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tune_step, "run_step_rate", in_this_process)
    monkeypatch.setattr(tune_step, "HALVINGS", 1)
    tune_step.tune_step_command([*WORDS, "--data", str(tiny_split.folder), "--ranks", "4"])
    out = capsys.readouterr().out.splitlines()
    (key,) = json.loads(cache.read_text())["machines"]
    assert out[0] == key and "mae with patch 8, width 32, depth 1, heads 2" in key and "eager" in key
    assert out[1] == "steps of 8 images, 0.05 s a measurement"
    assert "micro-batch 8 " in out[2] and "img/s, " in out[2] and out[2].endswith("GiB")
    tuned = TUNED_STEP.read(key)
    assert tuned is not None and tuned.settings.micro_batch in (4, 8) and tuned.img_per_s > 0
    assert out[-2].startswith(f"best: {tuned.settings.in_words()}: ") and out[-1] == f"written to {cache}"


def test_a_process_of_its_own_gives_the_same_answer(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = step_rate.first_batches
    config = config_for(tiny_split.folder, tmp_path, optim={"micro_batch": 4})
    answer, here = run_step_rate(config, 8, 0.05), in_this_process(config, 8, 0.05)
    assert set(answer) == {"img_per_s", "loss", "peak_bytes", "gradient"} and answer["img_per_s"] > 0
    assert answer["loss"] == pytest.approx(here["loss"], rel=1e-5)
    assert tune_step.gradient_difference(answer["gradient"], here["gradient"]) < 1e-5
    # a step that loses one of two micro-batches, whose loss is much the same
    half = dataclasses.replace(config, optim=dataclasses.replace(config.optim, micro_batch=8))
    whole = in_this_process(half, 8, 0.05)
    assert tune_step.gradient_difference(whole["gradient"], here["gradient"]) < 1e-4
    monkeypatch.setattr(step_rate, "first_batches", lambda *words: batches(*words)[:1] * 2)
    lost = in_this_process(config, 8, 0.05)
    assert tune_step.gradient_difference(lost["gradient"], here["gradient"]) > 0.1


def test_a_mode_that_computes_something_else_is_left_out(
    tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(config: Config, images: int, seconds: float) -> dict[str, Any]:
        wrong = config.optim.micro_batch < images
        # its loss is right
        gradient = [1.0, 1.5] if wrong else [1.0, 2.0]
        return {
            "img_per_s": 500.0 if wrong else 100.0, "loss": 1.0, "peak_bytes": GIB, "gradient": gradient
        }  # fmt: skip

    monkeypatch.setattr(tune_step, "run_step_rate", answer)
    tune_step.tune_step_command([*WORDS, "--data", str(tiny_split.folder)])
    out = capsys.readouterr().out
    assert "but gradients 22% off the first's: left out" in out and "best: micro-batch 32: 100.0 img/s" in out


@pytest.mark.parametrize("code", [step_rate.NO_MEMORY, -9])
def test_out_of_memory_ends_only_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    ended = SimpleNamespace(returncode=code, stdout="", stderr="")
    monkeypatch.setattr(tune_step.subprocess, "run", lambda *words, **named: ended)  # type: ignore[attr-defined]
    assert run_step_rate(config_for(tmp_path, tmp_path), 8, 1.0) == {}
    ended.returncode, ended.stderr = 1, "Traceback …\nturbomim: it broke\n"
    assert run_step_rate(config_for(tmp_path, tmp_path), 8, 1.0) == {"failure": "failed: turbomim: it broke"}


def test_a_candidate_that_fails_costs_itself(
    tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"img_per_s": 100.0, "loss": 1.0, "peak_bytes": GIB, "gradient": [1.0, 2.0]}

    def answer(config: Config, images: int, seconds: float) -> dict[str, Any]:
        return {"failure": "failed: RuntimeError: CUDA graphs"} if config.optim.micro_batch < images else good

    monkeypatch.setattr(tune_step, "run_step_rate", answer)
    tune_step.tune_step_command([*WORDS, "--data", str(tiny_split.folder)])
    out = capsys.readouterr().out
    assert "failed: RuntimeError: CUDA graphs" in out and "best: micro-batch 32: 100.0 img/s" in out
    monkeypatch.setattr(tune_step, "run_step_rate", lambda *_: {"failure": "failed: no such kernel"})
    with pytest.raises(UserError, match=r"^no step runs here, .*; the first said: failed: no such kernel$"):
        tune_step.tune_step_command([*WORDS, "--data", str(tiny_split.folder)])


@pytest.mark.parametrize(("micro_batch", "shard"), [(4, False), (0, True)])
def test_cuda_graphs_are_refused_where_they_cannot_be_right(
    tmp_path: Path, micro_batch: int, shard: bool
) -> None:
    step = {"compile_mode": "reduce-overhead", "shard": shard}
    config = config_for(tmp_path, tmp_path, step=step, optim={"micro_batch": micro_batch})
    with pytest.raises(UserError, match=r"^step.compile_mode = reduce-overhead: .*compile_mode default"):
        make_plan(config, 64, 1)
    plain = config_for(tmp_path, tmp_path, step={"compile_mode": "reduce-overhead"})
    assert make_plan(plain, 64, 1).micro_steps == 1
    candidates = [StepSettings(micro_batch=n) for n in (64, 32)]
    asked: list[StepSettings] = []

    def rate(settings: StepSettings) -> float:
        asked.append(settings)
        return 100.0 + (settings.micro_batch == 32) * 50

    assert search(rate, candidates, graphs=True, images=64) == candidates[1]
    assert all(settings.compile_mode == "default" for settings in asked)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")]
)
def test_a_process_without_memory_says_so_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(config: Config, seconds: float) -> None:
        assert config == from_dict(job["config"], Config(), "")
        raise error

    job = {"config": asdict(config_for(tmp_path, tmp_path)), "seconds": 1.0}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
    monkeypatch.setattr(step_rate, "step_rate", refuse)
    with pytest.raises(SystemExit) as end:
        step_rate.main()
    assert end.value.code == step_rate.NO_MEMORY


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo"], "data.path is empty: give the folder that `turbomim shard make` wrote, --data FOLDER"),
        (["demo", "--data", "/nowhere"], "--data /nowhere does not exist"),
        (["demo", "--data", ".", "--ranks", "0"], "--ranks 0: must be at least 1"),
        (["demo", "--data", ".", "--images", "0"], "--images 0: must be at least 1"),
        (["demo", "--data", ".", "--seconds", "0"], "--seconds 0: must be above 0"),
        (["dmo", "--data", "."], "unknown recipe 'dmo': did you mean demo?"),
    ],
)
def test_bad_options_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises((UsageError, UserError)) as error:
        tune_step.tune_step_command(words)
    assert message in str(error.value) and "\n" not in str(error.value)
