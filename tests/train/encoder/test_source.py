"""Eval of a FILE: its features are timm's, its sizes the tensors', what harms or does not fit is one line.

Planted, each seen to fail the test named: the class token's position left out
(`test_features_of_a_file_are_those_of_timm`); the card's heads overlooked
(`test_an_export_scores_as_its_run`, `test_every_export_of_a_plain_vit_is_its_run`); tensors left over let
pass (`test_files_that_do_not_fit_are_one_line`);
weights_only=False (`test_a_pickle_that_would_run_code_does_not`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.calls import assert_one_line, call
from tests.exported import make_run
from tests.runs import config_for, quiet
from tests.train.folder.test_hostile_checkpoints import Evil
from torch import nn

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.features import encode
from turbomim.train.encoder.source import load_source
from turbomim.train.export.programs import export
from turbomim.train.pretrain.pretrain import pretrain

SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}


pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def run(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    config = config_for(
        tiny_split.folder, tmp_path_factory.mktemp("runs"), optim={"epochs": 0.2, "warmup_epochs": 0}
    )
    return pretrain(config, console=quiet()).folder


def by_formula(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that are a function of their place, no two layers alike."""
    made = {}
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        places = torch.arange(tensor.numel(), dtype=torch.float64)
        waves = 0.15 * torch.sin(0.7 * number + places * (1 + number % 5) * 0.37)
        made[name] = (waves + (name.endswith("weight") and "norm" in name)).float().reshape(tensor.shape)
    return made


@pytest.fixture
def theirs() -> nn.Module:
    """timm's ViT, a supervised one with a head."""
    model: nn.Module = timm.create_model("vit_base_patch16_224", **SIZES, num_classes=7)
    model.load_state_dict(by_formula(model))
    return model.eval()


@pytest.mark.parametrize("wrapped", ["state_dict", "model", "bare", "safetensors"])
def test_features_of_a_file_are_those_of_timm(theirs: Any, wrapped: str) -> None:
    weights = theirs.state_dict()
    path = Path("vit.safetensors" if wrapped == "safetensors" else "vit.pth")
    if wrapped == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights if wrapped == "bare" else {wrapped: weights, "epoch": 3}, path)
    source = load_source(path, {})
    model = source.config.model
    assert (source.config.data.size, model.patch, model.width, model.depth, model.heads) == (32, 8, 64, 2, 1)
    assert "heads: 1 are assumed, width // 64; --model.heads N" in source.assumed and source.step is None
    pixels_BHWC = torch.randint(
        0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        tokens_BTD = theirs.forward_features((pixels_BHWC.permute(0, 3, 1, 2) / 255 - mean) / std)
        ours = encode(source.model.eval(), pixels_BHWC)
    torch.testing.assert_close(ours["class token"], tokens_BTD[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours["mean of patch tokens"], tokens_BTD[:, 1:].mean(1), rtol=0, atol=1e-5)
    assert float(tokens_BTD.std()) > 0.1, "features that are all alike show nothing"


def test_other_heads_are_other_features(theirs: Any) -> None:
    torch.save(theirs.state_dict(), "vit.pth")
    pixels_BHWC = torch.full((1, 32, 32, 3), 9, dtype=torch.uint8)
    pixels_BHWC[:, :16] = 200
    one, two = (load_source(Path("vit.pth"), flags) for flags in ({}, {"model.heads": "2"}))
    assert (one.config.model.heads, two.config.model.heads, two.assumed) == (1, 2, "")
    means = [encode(each.model.eval(), pixels_BHWC)["mean of patch tokens"] for each in (one, two)]
    assert not torch.allclose(means[0], means[1], atol=1e-4)


def test_an_export_scores_as_its_run(
    run: Path, trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its card tells two heads, where width 32 would be taken for one."""
    words = ["--train", str(trees), "--test", str(trees), "--samples", "0"]
    scores = []
    for number, what in enumerate((run, run / "export" / "model.safetensors")):
        assert call(monkeypatch, "eval", "knn", str(what), *words, "--json", f"{number}.json") == 0
        result = json.loads(Path(f"{number}.json").read_text())
        scores.append({name: of for name, of in result["scores"].items() if name.startswith("trained")})
    assert scores[0] == scores[1] and len(scores[0]) == 2
    assert result["file"].endswith("model.safetensors") and "step" not in result
    assert "assumed" not in capsys.readouterr().out
    # a finer view than scores
    pixels_BHWC = torch.arange(32 * 32 * 3).reshape(1, 32, 32, 3).remainder(251).to(torch.uint8)
    ways = (run, run / "export" / "model.safetensors", run / "export")
    features = [encode(load_source(path, {}).model.eval(), pixels_BHWC)["class token"] for path in ways]
    assert torch.equal(features[0], features[1]) and torch.equal(features[0], features[2])


def test_a_file_is_fine_tuned_and_probed(run: Path, trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(run / "export" / "model.safetensors")
    words = ["--train", str(trees), "--test", str(trees)]
    few = ["--epochs", "0.2", "--batch", "8", "--step.compile", "false"]
    assert call(monkeypatch, "eval", "finetune", file, *words, *few) == 0
    result = json.loads(Path("runs/eval-r-export/finetune/result.json").read_text())
    assert result["file"] == file and result["test_samples"] == 33
    published = ["--recipe", "published", "--epochs", "2", "--warmup-epochs", "0", "--head-batch", "8"]
    assert call(monkeypatch, "eval", "linear", file, *words, *published) == 0
    assert call(monkeypatch, "eval", "linear", file, *words) == 0


@pytest.mark.parametrize("verb", ["knn", "linear", "finetune"])
def test_files_that_do_not_fit_are_one_line(
    verb: str, theirs: Any, trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--train", str(trees), "--test", str(trees)]
    weights = theirs.state_dict()
    registers = {**weights, "reg_token": torch.zeros(1, 4, 64)}
    odd = {**weights, "blocks.1.norm1.weight": torch.zeros(63)}
    pooled = {name: tensor for name, tensor in weights.items() if not name.startswith("norm.")}
    endless = {**weights, "norm.bias": torch.full((64,), float("inf"))}
    for tree, parts in (
        (registers, ("unexpected: reg_token",)),
        (odd, ("of another shape: blocks.N.norm1.weight (63,) for (64,); it must be a plain ViT",)),
        (pooled, ("missing: norm.bias, norm.weight",)),
        (endless, ("not finite in norm.bias",)),
        ({"x": torch.ones(1)}, ("no known program",)),
        (
            {"encoder.mask_token": torch.ones(1, 1, 8)},
            ("`turbomim import bad.pth --from simmim --recipe NAME --run.name NAME`",),
        ),
        ({}, ("holds no weights",)),
    ):
        torch.save({"model": tree}, "bad.pth")
        assert call(monkeypatch, "eval", verb, "bad.pth", *words) == 1
        assert_one_line(capsys, "bad.pth", *parts)
    torch.save({"model": weights}, "bad.pth")
    assert call(monkeypatch, "eval", verb, "bad.pth", *words, "--model.heads", "3") == 2
    assert_one_line(capsys, "model.width")
    data = Path("bad.pth").read_bytes()
    for share in (0.0, 0.3, 0.9):
        Path("cut.pth").write_bytes(data[: int(share * len(data))])
        assert call(monkeypatch, "eval", verb, "cut.pth", *words) == 1
        assert_one_line(capsys, "cut.pth", "again")
    assert not Path("runs").exists()


@pytest.mark.parametrize("verb", ["knn", "linear", "finetune"])
def test_a_pickle_that_would_run_code_does_not(
    verb: str, theirs: Any, trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = Path("marker").resolve()
    evil = Evil(os.system, f"touch {marker}")
    words = ["--train", str(trees), "--test", str(trees)]
    torch.save({"model": {**theirs.state_dict(), "x": evil}}, "evil.pth")
    assert call(monkeypatch, "eval", verb, "evil.pth", *words) == 1
    assert_one_line(capsys, "evil.pth", "'x' is of a kind that no weight has, posix.system")
    torch.save({"model": theirs.state_dict(), "args": evil}, "evil.pth")
    assert "passed over, nothing of it ran: posix.system\n" in load_source(Path("evil.pth"), {}).assumed
    assert not marker.exists()
    torch.load("evil.pth", weights_only=False)
    assert marker.exists()


def test_a_card_that_is_none_is_passed_over(theirs: Any) -> None:
    torch.save(theirs.state_dict(), "vit.pth")
    for card in (
        "[" * 5000,
        "{}",
        '{"timm": null}',
        '{"timm": {"num_heads": "1; rm"}}',
        '{"timm": {"num_heads": true}, "turbomim": "0"}',
        '{"heads": "2", "turbomim": "0"}',
        '["heads", "turbomim"]',
        '"heads turbomim"',
        # another program's
        '{"heads": 2}',
    ):
        Path("vit.json").write_text(card)
        assert "assumed" in load_source(Path("vit.pth"), {}).assumed


@pytest.mark.parametrize(
    "card", ['{"heads": 4, "turbomim": "0"}', '{"timm": {"num_heads": 4}, "turbomim": "0"}']
)
def test_a_card_tells_heads(theirs: Any, card: str) -> None:
    torch.save(theirs.state_dict(), "vit.pth")
    Path("vit.json").write_text(card)
    for flags in ({}, {"model.heads": "4"}):
        source = load_source(Path("vit.pth"), flags)
        assert (source.config.model.heads, source.assumed) == (4, "")
    with pytest.raises(UserError, match=r"--model\.heads 2: vit\.json says 4: leave it out"):
        load_source(Path("vit.pth"), {"model.heads": "2"})


def test_a_checkpoint_has_the_heads_of_its_run() -> None:
    """Four; were config.yaml not read, width 48 would be taken for one."""
    run = make_run("mae").run
    source = load_source(run / "ckpt" / "step-00000003" / "model.safetensors", {})
    assert (source.config.model.heads, source.assumed) == (4, "")


@pytest.mark.parametrize("to", ["timm", "safetensors", "mae"])
def test_every_export_of_a_plain_vit_is_its_run(to: str) -> None:
    """Four heads, where width 48 would be taken for one."""
    trained = make_run("mae")
    model = trained.model
    (exported,) = export(trained, to, Path("out"))
    source = load_source(exported.path, {})
    assert (source.config.model.heads, source.assumed) == (4, "")
    pixels_BHWC = torch.arange(48 * 48 * 3).reshape(1, 48, 48, 3).remainder(251).to(torch.uint8)
    with torch.no_grad():
        assert torch.equal(source.model.eval().features(pixels_BHWC), model.eval().features(pixels_BHWC))


@pytest.mark.parametrize("name", ["simmim", "swin", "swinv2"])
def test_other_encoders_by_timms_names_are_named(
    name: str, trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = make_run(name)
    (exported,) = export(trained, "timm", Path("out"))
    words = ["--train", str(trees), "--test", str(trees)]
    assert call(monkeypatch, "eval", "knn", str(exported.path), *words) == 1
    assert_one_line(
        capsys,
        "is a SimMIM encoder, or another Beit or Swin",
        "files are taken of plain ViTs",
        "give the run",
    )
    assert call(monkeypatch, "import", str(exported.path), "--from", "mae", "--run.name", "s") == 1
    assert_one_line(capsys, "is a SimMIM encoder", "by import of SimMIM's own checkpoints")


def test_a_pipe_is_refused(
    trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    assert call(monkeypatch, "eval", "knn", "pipe", "--train", str(trees), "--test", str(trees)) == 1
    assert_one_line(capsys, "pipe is not a file")
