"""The rate that MFU is a share of: measured, kept for this machine, and used on every log line.

Planted bugs, and the test that each makes fail: a rate per matrix element instead of per product
(2 n^2): `test_the_rate_is_that_of_the_products`; the datasheet before the measured rate:
`test_a_measured_rate_comes_before_the_datasheet`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.calls import call
from tests.runs import config_for, keep_float32, quiet

from turbomim.kernels.linear import linear
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.log import read_metrics
from turbomim.train.machine import matmul_rate
from turbomim.train.machine.checks import matmul_rate_check
from turbomim.train.machine.matmul_rate import (
    about_peak,
    flops_text,
    measure_rate,
    measured_rate,
    peak_flops,
    rank_peak,
    write_rate,
)
from turbomim.train.models.methods import flops_per_image
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.world.distributed import World

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURBOMIM_CACHE_DIR", str(tmp_path / "cache"))
    keep_float32()
    return tmp_path / "cache" / "matmul.json"


def test_the_rate_is_that_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a product that takes 0.25 s, 256 x 256 matrices come to 2 x 256^3 / 0.25 FLOP/s."""
    now = 0.0

    def slow(*matrices: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += 0.25
        return linear(*matrices)

    monkeypatch.setattr(matmul_rate, "linear", slow)
    monkeypatch.setattr(matmul_rate, "time", SimpleNamespace(perf_counter=lambda: now))
    assert measure_rate(CPU, bfloat16=False, side=256) == 2 * 256**3 / 0.25


def test_a_rate_is_kept_for_the_device_and_its_type(cache: Path) -> None:
    assert measured_rate(CPU, bfloat16=False) is None
    assert write_rate(CPU, 5e10, bfloat16=False) == cache
    assert measured_rate(CPU, bfloat16=False) == peak_flops(CPU, bfloat16=False) == 5e10
    assert measured_rate(CPU, bfloat16=True) is None, "float32 was measured"
    entry = json.loads(cache.read_text())
    (machine,) = entry["machines"]
    entry["machines"][machine]["flop_per_s"] = "fast"
    cache.write_text(json.dumps(entry))
    with pytest.raises(
        UserError, match=r"matmul.json' is damaged .*: remove it; `turbomim doctor --measure`"
    ):
        measured_rate(CPU, bfloat16=False)


def test_a_measured_rate_comes_before_the_datasheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_rate, "datasheet_flops", lambda device, *, bfloat16: 312e12)
    assert peak_flops(CPU, bfloat16=False) == 312e12
    assert "MFU is of the datasheet's 312 TFLOP/s of float32 matrix products" in about_peak(
        CPU, bfloat16=False
    )
    write_rate(CPU, 240e12, bfloat16=False)
    assert peak_flops(CPU, bfloat16=False) == 240e12
    assert "of 240 TFLOP/s of float32 matrix products, measured on this" in about_peak(CPU, bfloat16=False)


def test_without_either_there_is_no_mfu_and_a_line_says_so() -> None:
    assert peak_flops(CPU, bfloat16=False) is None
    assert (
        about_peak(CPU, bfloat16=False).startswith("no MFU: ")
        and "doctor --measure" in matmul_rate_check().value
    )
    assert [flops_text(rate) for rate in (2250e12, 312e12, 1.5e12, 95.2e9)] == [
        "2,250 TFLOP/s", "312 TFLOP/s", "1.5 TFLOP/s", "95.2 GFLOP/s",
    ]  # fmt: skip


def test_ranks_share_a_cpu_but_not_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(rank=0, size=8, device=CPU, local_size=4)
    write_rate(CPU, 8e10, bfloat16=False)
    assert rank_peak(world, bfloat16=False) == 2e10
    monkeypatch.setattr(matmul_rate, "measured_rate", lambda device, *, bfloat16: 8e10)
    gpu = dataclasses.replace(world, device=torch.device("cuda", 0))
    assert rank_peak(gpu, bfloat16=True) == 8e10


def test_mfu_of_a_run_is_its_flops_over_the_kept_rate(tiny_split: Split, tmp_path: Path) -> None:
    write_rate(CPU, 3e10, bfloat16=False)
    config = config_for(tiny_split.folder, tmp_path, optim={"epochs": 1})
    pretrain(config, console=quiet())
    records = read_metrics(tmp_path / "r" / "metrics.jsonl")
    for record in records:
        assert record["mfu"] == pytest.approx(record["img_per_s"] * flops_per_image(config) / 3e10)
        assert record["img_per_s_per_gpu"] == record["img_per_s"] and 0.05 < record["memory_gib"] < 64
    said = (tmp_path / "r" / "train.log").read_text()
    assert "MFU is of 30.0 GFLOP/s of float32 matrix products, measured on this machine" in said
    assert f"mfu {100 * records[-1]['mfu']:.1f}%" in said


def test_doctor_measures_and_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("turbomim.train.machine.matmul_rate.SIDE", {"cpu": 64, "cuda": 8192})
    assert call(monkeypatch, "doctor", "--measure") == 0
    out = capsys.readouterr().out
    assert "MFU is of " in out and "matrix products, measured on this machine" in out and str(cache) in out
    assert call(monkeypatch, "doctor", "--mesure") == 2
