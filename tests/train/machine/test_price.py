"""What a run is said to take: presets that fit their GPU, and a table whose numbers are those of the run.

Planted bugs, and the test that each makes fail: a preset's micro-batch doubled, or halved:
`test_a_preset_is_the_largest_that_fits`; hours without the number of ranks: `test_a_run_on_64_gpus`; moments
counted once in a checkpoint: `test_a_checkpoint_is_as_large_as_said`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.calls import assert_one_line, call
from tests.runs import config_for, quiet

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint
from turbomim.train.machine.matmul_rate import BF16_FLOPS
from turbomim.train.machine.memory import GIB
from turbomim.train.machine.predicted_memory import predicted_bytes
from turbomim.train.machine.presets import MODELS, MOST, PRESETS, SHARE, apply_preset, model_name
from turbomim.train.machine.price import IMAGENET, checkpoint_bytes, flops_in_words, price_table, recipe_price
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.recipes.command_line import parse_config
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.plan import make_plan


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_largest_that_fits(preset: str, model: str) -> None:
    gpu, config = PRESETS[preset], Config(model=MODELS[model])

    def share(micro_batch: int) -> float:
        memory = predicted_bytes(config, micro_batch, bfloat16=True, recompute=False).total
        return memory / (gpu.memory_gib * GIB)

    micro_batch = gpu.micro_batches[model]
    assert micro_batch & (micro_batch - 1) == 0 and gpu.name in BF16_FLOPS
    assert share(micro_batch) <= SHARE
    assert micro_batch == MOST or share(2 * micro_batch) > SHARE


def test_a_preset_cuts_the_step_and_nothing_else() -> None:
    config = recipe("pixmim-vit-b16-800e")
    for ranks, micro_batch in ((1, 512), (8, 512), (64, 64), (24, 170)):
        chosen = apply_preset(config, "a100-80g", ranks)
        assert chosen.optim.micro_batch == micro_batch
        back = dataclasses.replace(chosen.optim, micro_batch=0)
        assert dataclasses.replace(chosen, optim=back) == config
    assert model_name(config) == "ViT-B/16"
    assert model_name(dataclasses.replace(config, data=DataConfig(size=448))) is None
    assert model_name(dataclasses.replace(config, model=ModelConfig(decoder_depth=4))) is None


@pytest.mark.parametrize(
    "words",
    ["--model.encoder vit_large_patch16_224", "--model.mask block", "--model.mask_unit 2",
     "--model.target ideal --model.radius 50 --model.norm_pix false"],
)  # fmt: skip
def test_a_preset_knows_a_model_by_its_memory_alone(words: str) -> None:
    """Planted, and seen to fail: a name of timm's beside its sizes, a mask of blocks or units, left in."""
    config, _ = parse_config(["mae-vit-l16-800e", "--data.path", "x", *words.split()])
    assert model_name(config) == "ViT-L/16"
    found, known = (
        predicted_bytes(each, 256, bfloat16=True, recompute=False).total
        for each in (config, Config(model=MODELS["ViT-L/16"]))
    )
    assert 0.95 * known < found <= known


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["mae-vit-b16-800e", "--preset", "a100"],
            "unknown preset 'a100': did you mean a100-40g or a100-80g?",
        ),
        (["demo", "--preset", "h100"], "--preset h100 knows ViT-B/16, ViT-L/16, ViT-H/14 at 224 pixels"),
        (
            ["mae-vit-b16-800e", "--preset", "h100", "--optim.micro-batch", "64"],
            "--preset h100 chooses optim.micro_batch, which is set to 64: give one of them",
        ),
        (["mae-vit-b16-800e", "--world-size", "8"], "--world-size prices a run: give --dry-run too"),
        (["mae-vit-b16-800e", "--dry-run", "--img-per-s", "8"], "give --dry-run --world-size RANKS too"),
        (["mae-vit-b16-800e", "--dry-run", "--world-size", "x"], "--world-size x: must be a whole number"),
        (["mae-vit-b16-800e", "--dry-run", "--world-size", "3"], "does not divide over 3 ranks"),
        (["demo", "--profile", "10:15"], "--profile 10:15: must be steps=FIRST:LAST"),
    ],
    ids=["preset", "model", "both", "no dry run", "rate alone", "no number", "not divided", "profile"],
)
def test_bad_orders_are_one_line(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pretrain", *words) in (1, 2)
    assert_one_line(capsys, message)


def table(config: Config, ranks: int, **given: Any) -> dict[str, str]:
    order: dict[str, Any] = {"img_per_s": None, "preset": None, **given}
    return dict(price_table(config, make_plan(config, IMAGENET, ranks), "ImageNet-1k", **order))


def test_a_run_on_64_gpus() -> None:
    found = table(recipe("mae-vit-b16-800e"), 64, img_per_s=2000.0)
    assert found["batch"] == "4096 = 64 x 1 x 64 (micro-batch x accumulation x ranks), 64 a rank"
    assert found["learning rate"] == "0.0024 = 0.00015 x 4096/256"
    # 800 x 1,281,167 / 4096 = 250,228; x 4096 / (64 x 2000) / 3600 = 2.22 hours
    assert found["steps"] == "250,228 = 800 epochs"
    assert found["rate"] == "2,000 img/s a GPU (given), 128,000 img/s in all"
    assert found["time"] == "2.2 hours, 142 GPU-hours"
    assert "of 79 GiB" in found["memory of a rank"] and "DALI's buffers" in found["memory of a rank"]
    assert found["model"] == "111.9 M parameters, 58.7 GFLOP an image"


def test_without_a_rate_the_datasheet_is_named() -> None:
    found = table(recipe("mae-vit-b16-800e"), 8, preset="h200")
    assert found["rate"].startswith(
        "6,741 img/s a GPU (assumed, not measured: 40% of the datasheet's 989 TFLOP/s"
    )
    assert "140 GiB" in found["memory of a rank"]
    too_much = table(recipe("mae-vit-b16-800e"), 1, preset="a100-40g")
    assert "more than the 39 GiB there are: --preset" in too_much["memory of a rank"]


def test_a_checkpoint_is_as_large_as_said(tiny_split: Split, tmp_path: Path) -> None:
    config = config_for(tiny_split.folder, tmp_path, optim={"epochs": 1}, model={"width": 64})
    pretrain(config, console=quiet())
    found, _ = checkpoint.newest(tmp_path / "r" / "ckpt")
    assert found is not None
    size = sum((found / name).stat().st_size for name in checkpoint.FILES[:2])
    # names and step counts of the tensors come to it
    assert checkpoint_bytes(config) < size < 1.1 * checkpoint_bytes(config)


def test_the_command_prints_one_table(
    tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", "pixmim-vit-b16-800e", "--dry-run", "--world-size", "64", "--preset", "a100-40g"]
    assert call(monkeypatch, *words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1,281,167 (ImageNet-1k; --data.path counts yours)" in out and "4096 = 64 x 1 x 64" in out
    assert "2,127 img/s a GPU (assumed, not measured: 40% of the datasheet's 312 TFLOP/s" in out
    assert call(monkeypatch, *words, "--data.path", str(tiny_split.folder), "--optim.global-batch", "64") == 0
    out = capsys.readouterr().out
    assert f"33 ({tiny_split.folder})".replace("\n", "") in out.replace("\n", "").replace(" " * 18, "")


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="does not divide over 7 ranks"):
        table(recipe("mae-vit-b16-800e"), 7)


def test_recipes_are_priced_on_imagenet_alone() -> None:
    # 800 epochs of 1,281,167 images at 58.5 GFLOP: 6.0e19 / (8 x 0.4 x 312e12) s = 16.7 h
    assert recipe_price(recipe("mae-vit-b16-800e")).endswith("17 hours on 8x A100, 42 hours on 1x H200")
    assert recipe_price(recipe("demo")).endswith("MFLOP an image")


@pytest.mark.parametrize(
    ("flops", "said"), [(5.87e10, "58.7 GFLOP"), (1e9, "1.0 GFLOP"), (1.4e7, "14 MFLOP"), (3e5, "0.3 MFLOP")]
)
def test_small_models_have_flops_too(flops: float, said: str) -> None:
    assert flops_in_words(flops) == f"{said} an image"
