"""The published linear probe: LARS against the written-out formula, its head, its features and their file.

Planted, each seen to fail the test named: the bias scaled too, no trust without weight decay
(`test_lars_is_the_written_out_formula`); batch norm with affine (`test_the_head_is_the_published`); one order
for all epochs (`test_every_epoch_has_an_order_of_its_own`); features of the last block
(`test_simmim_is_read_after_the_eighth_block`); a key without the weights
(`test_features_are_kept_for_their_weights`).
"""

from __future__ import annotations

import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.calls import assert_one_line, call
from tests.runs import config_for, quiet
from tests.train.models.test_simmim import SMALL as SIMMIM
from torch import nn

from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.crop import eval_crops
from turbomim.train.encoder.features import encode
from turbomim.train.evaluate.cached_features import write_features
from turbomim.train.evaluate.published_probe import (
    HeadTraining,
    batches_of,
    head_scores,
    make_head,
    make_lars,
    published_encoder,
    published_optim,
    train_head,
)
from turbomim.train.models.methods import make_model
from turbomim.train.models.simmim import SimMIM
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.schedule import lr_at

CPU = torch.device("cpu")


def training(batch: int, epochs: float, samples: int, seed: int, base_lr: float = 0.1) -> HeadTraining:
    """A tenth of it is warm-up."""
    optim = published_optim(epochs=epochs, warmup_epochs=epochs / 10, base_lr=base_lr, batch=batch)
    return HeadTraining(optim=optim, samples=samples, seed=seed)


def test_lars_is_the_written_out_formula() -> None:
    g = torch.Generator().manual_seed(0)
    head = nn.Linear(5, 3)
    weight, bias = head.weight.detach().clone().double(), head.bias.detach().clone().double()
    of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    optimizer = make_lars(head)
    for step in range(6):
        lr = 0.5 * (step + 1)
        gradients = torch.randn(3, 5, generator=g), torch.randn(3, generator=g)
        if step == 3:
            # nothing to scale by
            gradients = torch.zeros(3, 5), gradients[1]
        head.weight.grad, head.bias.grad = (each.clone() for each in gradients)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        dw, db = (each.double() for each in gradients)
        trust = 0.001 * weight.norm() / dw.norm() if float(dw.norm()) > 0 else 1.0
        of_weight = 0.9 * of_weight + trust * dw
        of_bias = 0.9 * of_bias + db
        weight, bias = weight - lr * of_weight, bias - lr * of_bias
        torch.testing.assert_close(head.weight.detach().double(), weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(head.bias.detach().double(), bias, rtol=1e-5, atol=1e-6)


def test_the_head_is_the_published() -> None:
    head = make_head(768, 1000, 0)
    norm, linear = head
    assert isinstance(norm, nn.BatchNorm1d) and (norm.eps, norm.affine) == (1e-6, False)
    assert isinstance(linear, nn.Linear) and not linear.bias.any()
    assert float(linear.weight.detach().std()) == pytest.approx(0.01, rel=0.01)
    assert torch.equal(linear.weight, make_head(768, 1000, 0)[1].weight)  # type: ignore[arg-type]
    optim = published_optim(epochs=90, warmup_epochs=10, base_lr=0.1, batch=16384)
    assert optim.lr == pytest.approx(6.4) and optim.weight_decay == 0
    assert [lr_at(e, optim) for e in (0, 5, 10, 50, 90)] == pytest.approx([0, 3.2, 6.4, 3.2, 0], abs=1e-12)


def test_every_epoch_has_an_order_of_its_own() -> None:
    labels_N = torch.arange(10)
    batches = list(islice(batches_of(labels_N[:, None].float(), labels_N, training(4, 1, 10, 1), CPU), 5))
    assert all(torch.equal(features[:, 0].long(), labels) for features, labels in batches)
    stream = torch.cat([labels for _, labels in batches]).tolist()
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10)) and stream[:10] != stream[10:]


def test_it_separates_what_can_be_separated() -> None:
    g = torch.Generator().manual_seed(0)
    labels_N = torch.arange(600) % 3
    # shifted and of other scales: batch norm must see to it
    features_ND = 50 + torch.randn(600, 8, generator=g) * torch.logspace(-2, 2, 8)
    features_ND[:, :3] += 4 * torch.logspace(-2, 2, 8)[:3] * torch.eye(3)[labels_N]
    head = make_head(8, 3, 0)
    # so few steps need large ones: a step of LARS is at most 0.001 x rate of the weights
    long = training(100, 30, 450, 0, base_lr=16)
    assert long.steps == 135
    train_head(head, batches_of(features_ND[:450], labels_N[:450], long, CPU), long)
    assert not head.training
    scores = head_scores(head, features_ND[450:], labels_N[450:], CPU)
    # of three classes all are among the first five
    assert scores["top1"] > 0.9 and list(scores) == ["top1"]
    assert list(head_scores(make_head(8, 6, 0).eval(), features_ND, labels_N, CPU)) == ["top1", "top5"]


def test_simmim_is_read_after_the_eighth_block() -> None:
    config = dataclasses.replace(SIMMIM, model=dataclasses.replace(SIMMIM.model, depth=9))
    whole = make_model(config).eval()
    assert isinstance(whole, SimMIM)
    pixels_BHWC = torch.randint(0, 256, (2, 48, 48, 3), dtype=torch.uint8)
    with torch.no_grad():
        patches_BNP, every_BN = whole.whole_patches(pixels_BHWC)
        tokens_BTD = torch.cat(
            [whole.cls_token.expand(2, -1, -1), whole.every_token(patches_BNP, every_BN)], 1
        )
        for block in list(whole.blocks)[:8]:
            tokens_BTD = block(tokens_BTD, whole.rel_pos_bias())
    model, kind = published_encoder(whole, config)
    assert kind == "mean of patch tokens"
    torch.testing.assert_close(encode(model, pixels_BHWC)[kind], tokens_BTD[:, 1:].mean(1))


def test_which_feature_is_published() -> None:
    small = ModelConfig(
        patch=16, width=24, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2
    )
    own: dict[str, dict[str, Any]] = {"mae": {}, "mff": {"fuse": "0"}, "convmae": {"conv_widths": "8,8"}}
    kinds = {}
    for method, settings in own.items():
        config = Config(model=dataclasses.replace(small, method=method, **settings))
        kinds[method] = published_encoder(make_model(config), config)[1]
    assert kinds == {"mae": "class token", "mff": "class token", "convmae": "mean of patch tokens"}


@pytest.fixture(scope="module")
def run(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    config = config_for(
        tiny_split.folder, tmp_path_factory.mktemp("runs"), optim={"epochs": 0.2, "warmup_epochs": 0}
    )
    return pretrain(config, console=quiet()).folder


def words(run: Path, trees: Path, *more: str) -> list[str]:
    path = str(trees)
    few = ["--epochs", "3", "--warmup-epochs", "0.5", "--head-batch", "16", "--batch", "8"]
    return ["eval", "linear", str(run), "--train", path, "--test", path, "--recipe", "published", *few, *more]


def test_features_are_kept_for_their_weights(
    run: Path,
    trees: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = []

    def counted(*args: Any, **more: Any) -> Any:
        made.append(1)
        return eval_crops(*args, **more)

    monkeypatch.setattr("turbomim.train.evaluate.cached_features.eval_crops", counted)

    def scored(*more: str) -> dict[str, object]:
        assert call(monkeypatch, *words(run, trees, "--json", str(tmp_path / "r.json"), *more)) == 0
        loaded: dict[str, object] = json.loads((tmp_path / "r.json").read_text())
        return loaded

    first = scored()
    assert (first["feature"], first["steps"], first["train_samples"]) == ("class token", 7, 33)
    assert list(cast(dict[str, object], first["scores"])) == [
        "trained: class token",
        "random weights: class token",
    ]
    files = list((run / "eval").glob("features-*.safetensors"))
    # of the trained encoder and of random weights; train and test split are the same here
    assert len(made) == len(files) == 2 and scored() == first and len(made) == 2
    assert first["lr"] == pytest.approx(0.1 * 16 / 256)
    scored("--samples", "20")
    assert len(made) == 4 and len(list((run / "eval").glob("*"))) == 4
    files[0].write_bytes(files[0].read_bytes()[:100])
    capsys.readouterr()
    assert scored() == first and len(made) == 5
    assert "is damaged: its features are made again" in capsys.readouterr().out
    # a bit of a label, of a feature, and of what says how long they are
    for number, place in enumerate((-1, -400, 20), start=6):
        damaged = bytearray(files[1].read_bytes())
        damaged[place] ^= 64
        files[1].write_bytes(damaged)
        assert scored() == first and len(made) == number
        assert "is damaged: its features are made again" in capsys.readouterr().out
    # another checkpoint is another file
    config = config_for(trees, tmp_path, optim={"epochs": 0.2, "warmup_epochs": 0}, run={"seed": 4})
    other = pretrain(config, console=quiet()).folder
    (other / "eval").mkdir()
    for path in (run / "eval").iterdir():
        (other / "eval" / path.name).write_bytes(path.read_bytes())
    assert call(monkeypatch, *words(other, trees)) == 0
    assert len(made) == 10


def test_augmented_it_trains_on_other_crops(
    run: Path, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for number in (1, 2):
        file = tmp_path / f"{number}.json"
        assert call(monkeypatch, *words(run, trees, "--augment", "--json", str(file))) == 0
        results.append(json.loads(file.read_text()))
    assert results[0] == results[1] and results[0]["augment"] is True and results[0]["steps"] == 7


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--head-batch", "34"], "--head-batch 34: more than the 33 train samples: give --head-batch 4"),
        (["--head-batch", "16384"], "give --head-batch 4\n"),
        (["--epochs", "0"], "--epochs 0: must be above 0"),
        (["--base-lr", "-1"], "--base-lr -1: must be above 0"),
        (["--head-batch", "1"], "--head-batch 1: must be at least 2"),
        (["--augment", "--samples", "20"], "--augment takes all train samples"),
        (["--warmup-epochs", "9"], "--warmup-epochs 9: must be 0 to --epochs, which is 3"),
        (["--model.heads", "9"], "--model.heads: a run has its own model"),
        (["--recipe", "own"], "--recipe"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Path,
    trees: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert call(monkeypatch, *words(run, trees, *more)) == 2
    assert_one_line(capsys, message)


@pytest.mark.parametrize(
    "more",
    [
        ["--augment"],
        ["--epochs", "3"],
        ["--warmup-epochs", "0"],
        ["--base-lr", "1"],
        ["--head-batch", "4"],
        ["--seed", "0"],
    ],
)
def test_the_solved_probe_refuses_what_it_does_not_read(
    run: Path,
    trees: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
) -> None:
    path = str(trees)
    assert call(monkeypatch, "eval", "linear", str(run), "--train", path, "--test", path, *more) == 2
    assert_one_line(capsys, f"{more[0]} is of --recipe published")


def test_warm_up_keeps_its_share_and_a_replaced_result_is_said(
    run: Path, trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(trees)
    plain = ["eval", "linear", str(run), "--train", path, "--test", path, "--recipe", "published"]
    assert call(monkeypatch, *plain, "--epochs", "0.9", "--head-batch", "33") == 0
    found = json.loads((run / "eval" / "linear-published.json").read_text())
    assert (found["warmup_epochs"], found["steps"]) == (pytest.approx(0.1), 1)
    assert (found["encoder"], found["crop"]) == ("32 px, patch 8, 32x2, 2 heads", 1.0)
    out = capsys.readouterr().out
    assert ": 1 step of 33 central crops, 33 test images" in out
    # of three classes
    assert "top-1" in out and "top-5" not in out and "replaced" not in out
    assert call(monkeypatch, *plain, "--epochs", "0.9", "--head-batch", "33") == 0
    assert "replaced" not in capsys.readouterr().out
    assert call(monkeypatch, *plain, "--epochs", "0.9", "--head-batch", "16") == 0
    out = capsys.readouterr().out
    assert "linear-published.json was of other settings (lr " in out
    assert "; head_batch 33, now 16) and is replaced" in out


def test_cached_features_have_the_usual_mode(tmp_path: Path) -> None:
    write_features(tmp_path / "kept" / "a.safetensors", torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    (tmp_path / "ours").write_text("")
    assert (tmp_path / "kept" / "a.safetensors").stat().st_mode == (tmp_path / "ours").stat().st_mode
