"""`--profile`: the parts add up, the largest is the one that is slow, and nothing is trained differently.

Planted bugs, and the test that each makes fail: no `part` around the optimizer, or around the forward, in
train/loop/step.py: `test_the_slow_part_is_named`; no `gc.collect` before the steps:
`test_garbage_of_before_is_not_collected_within_the_steps`; a profile that ends one step late:
`test_the_trace_has_the_steps_asked_for_and_training_does_not_notice`; a step counted when it begins:
`test_a_run_stopped_before_its_last_profiled_step_says_so`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import config_for, quiet

from turbomim.pipeline.loader import LoaderStats
from turbomim.pipeline.reading.read_ahead import ReadAhead
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.log import read_metrics
from turbomim.train.loop.checkpoints import RunCheckpoints
from turbomim.train.loop.profiling import ABOUT, REMEDIES, Profile, breakdown, page, parse_steps
from turbomim.train.loop.run import Run
from turbomim.train.loop.step import Step
from turbomim.train.models.mae import MAE
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.world.distributed import World


@pytest.mark.parametrize(
    ("text", "steps"),
    [("steps=10:15", range(10, 16)), ("steps=1:1", range(1, 2)), ("steps=3:40", range(3, 41))],
)
def test_steps_are_counted_from_one_and_both_ends_count(text: str, steps: range) -> None:
    assert parse_steps(text) == steps


@pytest.mark.parametrize(
    "text", ["10:15", "steps=", "steps=5", "steps=0:4", "steps=9:3", "steps=a:b", "steps=-1:3"]
)
def test_other_steps_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"must be steps=FIRST:LAST, .* steps=10:15 for example") as error:
        parse_steps(text)
    assert "\n" not in str(error.value) and text in str(error.value)


def test_parts_add_up_to_the_step() -> None:
    parts = {"wait": 10.0, "forward": 30.0, "backward": 60.0, "optimizer": 5.0}
    found = breakdown(parts, 7.0, step=110.0, reading=6.0, decoding=3.0)
    assert found == {
        "wait: read": 6.0, "wait: decode": 3.0, "wait: copy": 1.0, "kernel": 7.0, "forward": 23.0,
        "backward": 60.0, "optimizer": 5.0, "other": 5.0,
    }  # fmt: skip
    assert sum(found.values()) == pytest.approx(110)
    compiled = breakdown(parts, None, step=110.0, reading=6.0, decoding=3.0)
    assert "kernel" not in compiled and compiled["forward"] == 30.0
    assert set(found) == set(ABOUT) == set(REMEDIES)
    text = page(found, steps=6, step_ms=110.0, images=55)
    assert "is 110.00 ms, 500.0 img/s" in text.splitlines()[0]
    assert text.splitlines()[-1].startswith("largest: backward, 55 % of the step; ")
    assert all(len(line) <= 80 for line in text.splitlines()[1:-1])


def slowed(real: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return real(*arguments, **named)

    return slow


@pytest.mark.parametrize(
    ("owner", "name", "largest"),
    [
        (MAE, "forward_loss", "forward"),
        (torch.optim.AdamW, "step", "optimizer"),
        (ReadAhead, "__next__", "wait: read"),
        (World, "any_rank_stops", "other"),
    ],
    ids=["forward", "optimizer", "wait", "other ranks"],
)
def test_the_slow_part_is_named(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, largest: str
) -> None:
    monkeypatch.setattr(owner, name, slowed(getattr(owner, name), 0.1))
    config = config_for(tiny_split.folder, tmp_path, optim={"epochs": 2})
    pretrain(config, profile=range(4, 7), console=quiet())
    text = (tmp_path / "r" / "profile" / "breakdown.txt").read_text()
    assert f"largest: {largest}, " in text.splitlines()[-1], text
    # the whole of the slowness is in this part
    (row,) = [line for line in text.splitlines() if line.strip().startswith(f"{largest} ")]
    assert float(row.split(" ms")[0].split()[-1]) >= 100
    assert "kernel" in text, "eager on a CPU the kernels are ops of their own"
    assert text.splitlines()[0] in (tmp_path / "r" / "train.log").read_text()


def test_log_lines_and_checkpoints_are_outside_of_the_steps(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no remedy of `other` is to have fewer of them."""
    monkeypatch.setattr(Run, "_write_log_line", slowed(Run._write_log_line, 0.1))
    monkeypatch.setattr(RunCheckpoints, "save", slowed(RunCheckpoints.save, 0.1))
    config = config_for(tiny_split.folder, tmp_path, optim={"epochs": 2}, run={"save_every": 1})
    pretrain(config, profile=range(4, 7), console=quiet())
    text = (tmp_path / "r" / "profile" / "breakdown.txt").read_text()
    (row,) = [line for line in text.splitlines() if line.strip().startswith("other ")]
    assert float(row.split(" ms")[0].split()[-1]) < 100
    assert "checkpoint" not in REMEDIES["other"] and "rank" in REMEDIES["other"]


def test_garbage_of_before_is_not_collected_within_the_steps(tmp_path: Path) -> None:
    class Node:
        itself: Node

    said: list[str] = []
    profile = Profile(range(2, 4), tmp_path, 8, said.append)
    gc.disable()
    try:
        node = Node()
        node.itself = node
        alive = weakref.ref(node)
        del node
        profile.begin(LoaderStats())
        assert alive() is not None, "only a profile collects"
        profile.end(LoaderStats())
        profile.begin(LoaderStats())
        assert alive() is None
    finally:
        gc.enable()
        profile.close()
    assert len(said) == 1


def test_the_trace_has_the_steps_asked_for_and_training_does_not_notice(
    tiny_split: Split, tmp_path: Path
) -> None:
    plain, profiled = (
        config_for(tiny_split.folder, tmp_path / name, optim={"epochs": 2, "micro_batch": 4})
        for name in ("plain", "profiled")
    )
    pretrain(plain, console=quiet())
    pretrain(profiled, profile=range(3, 6), console=quiet())
    losses = [
        [r["loss"] for r in read_metrics(tmp_path / name / "r" / "metrics.jsonl")]
        for name in ("plain", "profiled")
    ]
    assert losses[0] == losses[1]
    events = json.loads((tmp_path / "profiled" / "r" / "profile" / "trace.json").read_text())["traceEvents"]
    names = [event.get("name") for event in events if event.get("cat") == "user_annotation"]
    counts = {part: names.count(f"turbomim.{part}") for part in ("wait", "forward", "backward", "optimizer")}
    assert counts == {"wait": 3, "forward": 6, "backward": 6, "optimizer": 3}


@pytest.mark.parametrize("first", [3, 20], ids=["within", "before"])
def test_a_run_that_ends_before_says_so(tiny_split: Split, tmp_path: Path, first: int) -> None:
    config = config_for(tiny_split.folder, tmp_path, optim={"epochs": 1})
    result = pretrain(config, profile=range(first, 30), console=quiet())
    said = (result.folder / "train.log").read_text()
    wanted = f"this process took {result.steps} steps, and --profile asks for steps {first} to 29"
    assert said.count(f"no profile: {wanted}") == 1
    assert not (result.folder / "profile").exists() and not torch._C._autograd._profiler_enabled()


def test_a_run_stopped_before_its_last_profiled_step_says_so(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data of step 3, the last of the profile, is taken, and then the run stops."""
    real, calls = Step.__call__, 0

    def step(self: Step, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *arguments)

    monkeypatch.setattr(Step, "__call__", step)
    result = pretrain(config_for(tiny_split.folder, tmp_path), profile=range(2, 4), console=quiet())
    assert (result.status, result.step) == ("preempted", 2)
    wanted = "no profile: this process took 2 steps, and --profile asks for steps 2 to 3"
    assert (result.folder / "train.log").read_text().count(wanted) == 1
    assert not (result.folder / "profile").exists() and not torch._C._autograd._profiler_enabled()
