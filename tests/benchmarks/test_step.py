"""The benchmark of the step and the one of everything: wrong forms are refused, broken parts named.

Which test fails for which mistake (each was made once, on purpose):
query and key of Hugging Face's swapped, its fixed positions trained (transformers 5), the kept patches last
in the noise, weight decay on biases too: test_forms_are_the_same_training;
a loss that is not a number passes, only the first loss compared: test_a_wrong_form_is_refused;
a refused form timed all the same, a form measured twice in a row:
test_rounds_alternate_and_failures_cost_a_form;
the end of a process's pipe not turned into words: test_a_process_takes_turns_and_its_death_is_said;
a part's workers left running, rows of a part that was stopped lost, a row cut short kept:
test_a_part_that_is_stopped_keeps_its_rows;
JSON that is no row taken for one: test_what_a_part_leaves_behind;
one part's failure ends the others: test_each_part_that_cannot_run_costs_a_line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import torch

from turbomim.benchmarks import all as bench_all
from turbomim.benchmarks.all import Part, Result
from turbomim.benchmarks.options import BenchStep
from turbomim.benchmarks.step import bench as bench_step
from turbomim.benchmarks.step.bench import MODELS, compare, configure, disagreement, json_lines
from turbomim.benchmarks.step.forms import FORMS, Task
from turbomim.benchmarks.step.process import FormProcess, Turn
from turbomim.pipeline.system.errors import UsageError, UserError
from turbomim.train.commands.cli import call
from turbomim.train.models.methods import flops_per_image
from turbomim.train.settings.config import Config, DataConfig, StepConfig
from turbomim.train.settings.model import ModelConfig

SMALL = Config(
    data=DataConfig(size=48),
    model=ModelConfig(
        patch=8, width=48, depth=3, heads=4, decoder_width=32, decoder_depth=2, decoder_heads=2
    ),
    step=StepConfig(compile=False),
)
TASK = Task(config=SMALL, batch=5, device="cpu")


@pytest.mark.parametrize("name", ["Hugging Face", "turbomim"])
def test_forms_are_the_same_training(name: str) -> None:
    reference, form = FORMS["textbook"](TASK), FORMS[name](TASK)
    # every step but the first also tells gradients, weight decay and rate
    for _ in range(5):
        torch.testing.assert_close(form(), reference(), rtol=1e-6, atol=0)
    assert reference() < 0.98 * 1.2827, "it learned nothing"


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([2.0, 1.9], ""),
        ([2.0 + 1.9e-5, 1.9], ""),
        ([2.0 + 2.1e-5, 1.9], "wrong, not timed: loss 2.0000210 in step 1, the textbook's is 2.0000000"),
        ([float("nan"), 1.9], "wrong, not timed: loss nan in step 1"),
        ([2.0, 1.91], "wrong, not timed: loss 1.9100000 in step 2"),
    ],
)
def test_a_wrong_form_is_refused(losses: list[float], message: str) -> None:
    said = disagreement(losses, [2.0, 1.9], bfloat16=False)
    assert said.startswith(message) and bool(said) == bool(message)


class FakeProcess:
    """A form of invented losses and times, that writes down its turns."""

    asked: list[str]

    def __init__(self, name: str, task: Task) -> None:
        self.name = name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.asked.append(f"{self.name} ended")

    def losses(self) -> list[float]:
        if self.name == "absent":
            raise RuntimeError("ModuleNotFoundError: No module named 'absent'")
        return [1.0, 1.1 if self.name == "wrong" else 0.9, 0.8]

    def turn(self, seconds: float) -> Turn:
        self.asked.append(self.name)
        if self.name == "dies" and self.asked.count("dies") == 2:
            raise RuntimeError("its process ended with exit code -9")
        seconds = {"textbook": 2.0, "turbomim": 1.0}.get(self.name, 4.0)
        return Turn(seconds=seconds, cpu_seconds=seconds**2, peak_bytes=3 * 10**9)


def test_rounds_alternate_and_failures_cost_a_form(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeProcess.asked = []
    monkeypatch.setattr(bench_step, "FormProcess", FakeProcess)
    names = ["textbook", "wrong", "absent", "dies", "turbomim"]
    rows = compare(TASK, names, rounds=2, seconds=1)
    assert FakeProcess.asked[:6] == ["textbook", "dies", "turbomim"] * 2
    assert sorted(FakeProcess.asked[6:]) == sorted(f"{name} ended" for name in names)
    failures = {row.name: row.failure for row in rows}
    assert failures["wrong"].startswith("wrong, not timed: loss 1.1")
    assert failures["absent"] == "not run: ModuleNotFoundError: No module named 'absent'"
    assert failures["dies"] == "failed in round 2: its process ended with exit code -9"
    assert not failures["textbook"] and not failures["turbomim"]
    lines = [json.loads(line) for line in json_lines("small", TASK, rows)]
    assert [(line["name"], line["times_faster"]) for line in lines] == [
        ("step, small: textbook", 1.0),
        ("step, small: turbomim", 2.0),
    ]
    assert lines[1]["cpu_times_faster"] == 4.0
    assert lines[1]["img_per_s"] == 5.0 and lines[1]["peak_gb"] == 3.0
    assert lines[1]["gflop_per_image"] == round(flops_per_image(SMALL) / 1e9, 2)
    with pytest.raises(RuntimeError, match=r"absent: not run: ModuleNotFoundError"):
        compare(TASK, ["absent", "turbomim"], rounds=2, seconds=1)


def test_a_process_takes_turns_and_its_death_is_said() -> None:
    with FormProcess("turbomim", TASK) as process:
        assert [f"{loss:.5f}" for loss in process.losses()] == ["1.28271", "1.27595", "1.26947"]
        turn = process.turn(0.01)
        assert 0 < turn.seconds < 10 and 0 < turn.cpu_seconds < 10
        assert 50e6 < turn.peak_bytes < 20e9
        assert process._process.pid is not None
        os.kill(process._process.pid, 9)
        begun = time.perf_counter()
        with pytest.raises(RuntimeError, match="exit code -9"):
            process._answer(60)
        assert time.perf_counter() - begun < 30


def test_models_are_those_of_the_papers() -> None:
    gflop = {"vit-base": 58.5, "vit-large": 124.2, "vit-huge": 291.0}
    for name in MODELS:
        config = configure(name, BenchStep())
        assert config.model.decoder_width == 512 and config.model.target == "raw" and config.model.norm_pix
        if name in gflop:
            assert abs(flops_per_image(config) / 1e9 / gflop[name] - 1) < 0.01


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["step", "--models", "vit-giant"], "--models has 'vit-giant': choose among vit-tiny"),
        (["step", "--forms", "textbok"], "--forms has 'textbok': choose among textbook"),
        (["step", "--rounds", "1"], "--rounds 1 "),
        (["train", "--data", "x", "--steps", "0"], "--steps 0 "),
        (["all", "--seconds", "1"], "--seconds 1: at least 10"),
        (["all", "--second"], "unknown flag '--second': did you mean --seconds?"),
    ],
)
def test_what_a_user_gets_wrong(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        call(["bench", *argv])
    assert message in str(error.value) and "\n" not in str(error.value)


def python(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let every part be a script."""
    monkeypatch.setattr(bench_all, "TURBOMIM", (sys.executable, "-c", script))


ROW = '{"name": "step: ours", "unit": "us per 1000 images"}'


def test_a_part_that_is_stopped_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker"
    # a worker of its own that would write on, and a last row cut short
    python(
        monkeypatch,
        f"""
import subprocess, sys, time
print({ROW!r}, '{{"unit": "us p', sep="\\n", end="", flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3); open({str(worker)!r}, 'w')"])
time.sleep(60)
""",
    )
    begun = time.perf_counter()
    result = bench_all.run(Part(name="step", words=(), share=1), 1.5, tmp_path)
    assert time.perf_counter() - begun < 20
    assert result.rows == [ROW]
    assert result.remarks == ["stopped after 2 s, its share of --seconds; 1 rows are kept"]
    time.sleep(max(0.0, 4.5 - (time.perf_counter() - begun)))
    assert not worker.exists()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (f"print({ROW!r}); print('| a table |'); print('{{}}'); print('7')", Result(rows=[ROW])),
        (
            "import no_such_package",
            Result(remarks=["not run: No module named 'no_such_package': pip install 'turbomim[bench]'"]),
        ),
        (
            f"import sys; print({ROW!r}); sys.exit('turbomim: --data x does not exist')",
            Result(rows=[ROW], remarks=["broken off: --data x does not exist"]),
        ),
        (
            f"import sys; print({ROW!r}); print('b: fine', 'a: not run: no a', sep='\\n', file=sys.stderr)",
            Result(rows=[ROW], remarks=["a: not run: no a"]),
        ),
        ("import os; os.abort()", Result(remarks=["not run: it said nothing"])),
    ],
    ids=["whole", "missing package", "broken off", "a form less", "crash"],
)
def test_what_a_part_leaves_behind(
    script: str, expected: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(monkeypatch, script)
    assert bench_all.run(Part(name="part", words=(), share=1), 60, tmp_path) == expected


def test_each_part_that_cannot_run_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a machine without tyro, and one without DALI: the real commands, the packages hidden from them."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "tyro.py").write_text("raise ModuleNotFoundError(\"No module named 'tyro'\")", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{hidden}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(bench_all, "make_photographs", lambda work: (work / "none", "no photographs: x"))
    out = tmp_path / "all" / "results.jsonl"
    with pytest.raises(UserError, match=r"^nothing could be measured here, .*turbomim\[bench\]") as error:
        bench_all.bench_all_command(["--out", str(out), "--seconds", "200"])
    assert "\n" not in str(error.value)
    said = capfd.readouterr().err.splitlines()
    tyro = "not run: No module named 'tyro': pip install 'turbomim[bench]'"
    assert [line for line in said if "not run" in line] == [
        "loader: not run: no photographs: x",
        f"kernels: {tyro}",
        f"step: {tyro}",
        "train: not run: no photographs: x",
    ]


def test_the_share_of_the_time_that_a_part_leaves_goes_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: dict[str, float] = {}

    def run(part: Part, seconds: float, work: Path) -> Result:
        limits[part.name] = seconds
        return Result(rows=[ROW] if part.name == "kernels" else [])

    python(monkeypatch, "print('tables')")
    monkeypatch.setattr(bench_all, "run", run)
    monkeypatch.setattr(
        bench_all,
        "plan",
        lambda *_: [Part(name=n, words=(), share=s) for n, s in (("kernels", 1), ("step", 3))],
    )
    out = tmp_path / "results.jsonl"
    out.write_text("an older run's\n", encoding="utf-8")
    bench_all.bench_all_command(["--out", str(out), "--seconds", "100"])
    assert 20 < limits["kernels"] <= 25 and 90 < limits["step"] <= 100
    assert out.read_text(encoding="utf-8") == f"{ROW}\n"


def test_peak_and_precision_follow_the_configuration() -> None:
    options = BenchStep(precision="bfloat16", size=96, decoder_depth=2)
    config = configure("vit-tiny", options)
    assert (config.data.size, config.model.decoder_depth, config.step.precision) == (96, 2, "bfloat16")
    assert dataclasses.replace(config.model, decoder_depth=8) == configure("vit-tiny", BenchStep()).model
