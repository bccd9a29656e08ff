"""The benchmark of training on shards: what it counts as waiting, and what it leaves out.

Which test fails for which mistake (each was made once, on purpose):
the wait of the uncounted steps counted, none left uncounted, the synthetic batch taken from the loader:
test_waits_are_those_of_the_counted_steps.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from turbomim.benchmarks.options import BenchTrain
from turbomim.benchmarks.step import train as bench_train
from turbomim.benchmarks.step.forms import Task
from turbomim.benchmarks.step.train import bench_train_command, measure, settings
from turbomim.pipeline.batch import Batch
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.settings.config import Config, DataConfig, StepConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.world.distributed import join_ranks

SMALL = Config(
    data=DataConfig(size=32, prefetch=3),
    model=ModelConfig(
        patch=8, width=32, depth=1, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2
    ),
    step=StepConfig(device="cpu", compile=False),
)
WAIT = 0.2


def test_waits_are_those_of_the_counted_steps(tiny_split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    @contextmanager
    def slow_loader(*_: object, **__: object) -> Iterator[Iterator[Batch]]:
        def batches() -> Iterator[Batch]:
            nonlocal taken
            while True:
                time.sleep(WAIT)
                taken += 1
                yield Task(config=SMALL, batch=4, device="cpu").make_batch()

        yield batches()

    monkeypatch.setattr(bench_train, "open_loader", slow_loader)
    config = dataclasses.replace(SMALL, data=dataclasses.replace(SMALL.data, path=str(tiny_split.folder)))
    options = BenchTrain(data=str(tiny_split.folder), rounds=2, steps=5)
    with join_ranks("cpu") as world:
        rounds, store = measure(config, 4, options, world)
    assert store == "original photographs"
    # 2 x prefetch are thrown away before the counted ones
    assert taken == 2 * (2 * 3 + 5)
    for each in rounds:
        assert 5 * WAIT <= each.wait < 10 * WAIT
        assert each.wait < each.real
    assert min(each.synthetic for each in rounds) < 5 * WAIT


def test_it_trains_on_shards(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_train, "configure", lambda name, options: SMALL)
    out = tmp_path / "new" / "train.jsonl"
    common = [
        "--data",
        str(tiny_split.folder),
        "--device",
        "cpu",
        "--steps",
        "2",
        # the median of many: a busy machine may hold up a few of these short steps
        "--rounds",
        "15",
        "--batch",
        "3",
    ]
    bench_train_command([*common, "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["name"] for row in rows] == [
        "train, vit-tiny: synthetic batch",
        "train, vit-tiny: end to end",
    ]
    assert rows[0]["data_wait_pct"] == 0 and 0 < rows[1]["data_wait_pct"] < 100
    assert rows[1]["ratio_to_synthetic"] < 2
    assert "| vit-tiny: end to end |" in capsys.readouterr().out
    with pytest.raises(UserError, match="--data nowhere does not exist"):
        bench_train_command(["--data", "nowhere", *common[2:]])
    with pytest.raises(UserError, match="unknown recipe 'mae': did you mean"):
        bench_train_command([*common, "--recipe", "mae"])


def test_a_recipe_gives_model_and_crops() -> None:
    options = BenchTrain(data="shards", recipe="demo", device="cpu")
    config = settings(options, "demo")
    assert (config.data.path, config.data.size, config.step.device) == ("shards", 96, "cpu")
    assert config.model.target == "gaussian"
