"""Which products a run on a CPU takes: the measured choice, kept, the same on every rank.

Which test fails for which mistake (each was made once, on purpose): the margin left out, or the rates
exchanged: test_the_choice; measured again in place of read: test_what_is_kept_is_taken; `auto` not settled,
or a given precision replaced: test_a_run_says_and_takes_it; oneDNN whatever was chosen:
test_blas_where_it_is_chosen.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.runs import config_for, quiet

from turbomim.kernels import linear as linear_module
from turbomim.kernels.linear import ONEDNN, linear, use_onednn
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.machine import cpu_products as module
from turbomim.train.machine.cpu_products import (
    CpuProducts,
    auto_is_bfloat16,
    cpu_products,
    keep_products,
    measure_products,
    settle_products,
)
from turbomim.train.machine.measurements import Tuned
from turbomim.train.machine.tuned_step import TUNED_STEP, StepSettings, step_key
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, StepConfig
from turbomim.train.world.distributed import World

CPU = torch.device("cpu")
BFLOAT16 = CpuProducts(blas=190.0, onednn=205.0, bfloat16=420.0)


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURBOMIM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cpu.json"


@pytest.mark.parametrize(
    ("blas", "onednn", "bfloat16", "library", "precision"),
    [
        # Zen 5, torch 2.15; Zen 4, torch 2.14
        (167.0, 310.0, 620.0, "onednn", "bfloat16"),
        (192.0, 205.0, 420.0, "onednn", "bfloat16"),
        # equal but for noise: always the same one
        (205.0, 192.0, 420.0, "onednn", "bfloat16"),
        (240.0, 192.0, 300.0, "blas", "float32"),
        # a processor without instructions for it; one whose gain casts would take; torch without oneDNN
        (100.0, 100.0, 30.0, "onednn", "float32"),
        (100.0, 100.0, 130.0, "onednn", "float32"),
        (50.0, 0.0, 0.0, "blas", "float32"),
    ],
)
def test_the_choice(blas: float, onednn: float, bfloat16: float, library: str, precision: str) -> None:
    products = CpuProducts(blas=blas, onednn=onednn, bfloat16=bfloat16)
    assert (products.float32, products.precision) == (library, precision)


def test_a_measurement_is_of_this_machine(own_file: Path) -> None:
    products = measure_products()
    assert 1 < products.blas < 20_000 and (1 < products.onednn < 20_000) == ONEDNN
    assert not own_file.exists()


def test_what_is_kept_is_taken(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_products", lambda: BFLOAT16)
    assert cpu_products() == (BFLOAT16, "") and own_file.exists()
    monkeypatch.setattr(module, "measure_products", lambda: None)
    assert cpu_products() == (BFLOAT16, "") and auto_is_bfloat16(CPU)
    own_file.write_text(own_file.read_text().replace("205.0", '"x"'))
    with pytest.raises(UserError, match=r"cpu\.json' is damaged .* the next run makes a new one"):
        cpu_products()


def test_a_folder_that_cannot_be_written_costs_a_note(
    own_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_file.parent.write_text("no folder")
    monkeypatch.setattr(module, "measure_products", lambda: BFLOAT16)
    products, note = cpu_products()
    assert products == BFLOAT16
    assert note.startswith("the next run measures matrix products again: ") and "TURBOMIM_CACHE_DIR" in note


def test_a_gpu_s_settings_stay() -> None:
    config = Config()
    assert settle_products(config, World(device=torch.device("cuda", 0))) == (config, [])


@pytest.mark.parametrize("asked", ["auto", "float32"])
def test_a_run_says_and_takes_it(own_file: Path, tiny_split: Split, tmp_path: Path, asked: str) -> None:
    keep_products(BFLOAT16)
    step = {"device": "cpu", "compile": False, "precision": asked}
    pretrain(config_for(tiny_split.folder, tmp_path, optim={"steps": 1}, step=step), console=quiet())
    said = (tmp_path / "r" / "train.log").read_text()
    assert "float32 190 by BLAS, 205 by oneDNN, bfloat16 420; kept in" in said and str(own_file) in said
    assert ("step.precision auto is bfloat16" in said) == (asked == "auto")
    written = (tmp_path / "r" / "config.yaml").read_text()
    # another machine that reads the settings chooses for itself
    assert f"precision: {asked}" in written


def test_a_run_takes_the_step_that_was_tuned_for_its_precision(
    own_file: Path, tiny_split: Split, tmp_path: Path
) -> None:
    """`turbomim tune step` keeps it under bfloat16, which `auto` is here."""
    keep_products(BFLOAT16)
    step = {"device": "cpu", "compile": False}
    config = config_for(tiny_split.folder, tmp_path, optim={"steps": 1}, step=step)
    settled, _ = settle_products(config, World(device=CPU))
    tuned = Tuned(settings=StepSettings(micro_batch=4), img_per_s=1.0, date="2026-01-01")
    TUNED_STEP.write(step_key(settled, World(device=CPU)), tuned, {})
    pretrain(config, console=quiet())
    assert "step: micro-batch 4, tuned on this machine" in (tmp_path / "r" / "train.log").read_text()


def test_blas_where_it_is_chosen(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_products(CpuProducts(blas=240.0, onednn=192.0, bfloat16=0.0))
    monkeypatch.setattr(linear_module, "product_op", None)
    try:
        settle_products(Config(step=StepConfig(device="cpu")), World(device=CPU))
        assert linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4)).tolist() == [[4.0] * 4] * 2
    finally:
        use_onednn(ONEDNN)
