"""Fine-tuning at another size than the training's, and its base: a fine-tuning of random weights.

Planted, each seen to fail the test named: fresh positions in the classifier
(`test_fine_tuning_at_another_size_begins_with_resampled_positions`); the trained weights called random, or
those of another seed (`test_random_weights_stand_beside_the_trained_ones`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.calls import call
from tests.exported import make_run
from tests.runs import config_for, outcome, quiet

from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.features import load_run
from turbomim.train.encoder.resize import at_size, resized
from turbomim.train.models.methods import make_model
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config


@pytest.fixture(scope="module")
def run(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of a tiny MAE of 32 pixels, whose seed is not that of a fine-tuning."""
    folder = tmp_path_factory.mktemp("runs")
    config = config_for(tiny_split.folder, folder, optim={"epochs": 0.5, "warmup_epochs": 0}, run={"seed": 5})
    return pretrain(config, console=quiet()).folder


def tuning(run: Path, trees: Path, *more: str) -> list[str]:
    """Two steps; every one is kept."""
    words = ["eval", "finetune", str(run), "--train", str(trees), "--test", str(trees), "--epochs", "0.4"]
    kept = ["--run.save_every", "1", "--run.keep", "9", "--run.log_every", "1"]
    return [*words, "--batch", "8", "--step.compile", "false", *kept, *more]


def start(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "ckpt" / "step-00000000" / "model.safetensors")


def test_fine_tuning_at_another_size_begins_with_resampled_positions(
    run: Path, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It resumes to the same bits, and refuses a second size by its name."""
    words = tuning(run, trees, "--run.folder", str(tmp_path), "--json", str(tmp_path / "48.json"))
    assert call(monkeypatch, *words, "--data.size", "48") == 0
    config, model, _ = load_run(run)
    expected = resized(model, config, at_size(config, 48))
    begun = start(tmp_path / "finetune")
    assert begun["encoder.pos_embed"].shape == (1, 37, 32)
    assert torch.equal(begun["encoder.pos_embed"], expected.pos_embed.detach())
    assert not torch.equal(begun["encoder.pos_embed"], make_model(at_size(config, 48)).pos_embed.detach())
    assert torch.equal(
        begun["encoder.blocks.1.mlp.fc1.weight"], model.state_dict()["blocks.1.mlp.fc1.weight"]
    )
    result = json.loads((tmp_path / "48.json").read_text())
    assert (result["size"], result["settings"]["data"]["size"]) == (48, 48)
    assert result["encoder"].startswith("32 px")
    whole = outcome(tmp_path / "finetune")
    shutil.rmtree(tmp_path / "finetune" / "ckpt" / "step-00000002")
    (tmp_path / "finetune" / "ckpt" / "latest").write_text("step-00000001\n")
    assert call(monkeypatch, *words, "--data.size", "48") == 0
    assert outcome(tmp_path / "finetune") == whole
    capsys.readouterr()
    assert call(monkeypatch, *words, "--data.size", "40") == 1
    said = capsys.readouterr().err
    assert "data.size: 48 -> 40" in said and "another --run.name" in said and said.count("\n") == 1


@pytest.mark.parametrize("kind", ["simmim", "swin", "swinv2", "convmae"])
def test_every_method_is_fine_tuned_at_another_size(
    kind: str, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = make_run(kind)
    folder, config, model = trained.run, trained.config, trained.model
    assert call(monkeypatch, *tuning(folder, trees, "--data.size", "64")) == 0
    begun = start(folder / "eval" / "finetune")
    expected = resized(model, config, at_size(config, 64)).state_dict()
    tables = [name for name in begun if "pos_embed" in name or "relative_position" in name]
    for name in tables:
        # each block of SimMIM's ViT has its own copy
        own = name.removeprefix("encoder.").replace("rel_pos_bias.0.", "rel_pos_bias.")
        assert ".1." in own or ".2." in own or torch.equal(begun[name], expected[own])
    assert bool(tables) == (kind != "swinv2")


@pytest.mark.parametrize("verb", ["knn", "linear"])
def test_frozen_features_are_scored_at_another_size(
    verb: str, run: Path, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_run(run)[1]
    sizes = []
    features = type(model).features

    def noted(self: Any, images_BHWC: torch.Tensor) -> torch.Tensor:
        sizes.append((images_BHWC.shape[1], self.grid))
        return features(self, images_BHWC)

    monkeypatch.setattr(type(model), "features", noted)
    words = [str(run), "--train", str(trees), "--test", str(trees), "--size", "48"]
    file = tmp_path / "r.json"
    assert call(monkeypatch, "eval", verb, *words, "--json", str(file)) == 0
    result = json.loads(file.read_text())
    assert result["size"] == 48 and set(sizes) == {(48, 6)} and result["encoder"].startswith("32 px")
    if verb == "linear":
        published = ["--recipe", "published", "--epochs", "0.5", "--head-batch", "8", "--json", str(file)]
        assert call(monkeypatch, "eval", verb, *words, *published) == 0
        assert json.loads(file.read_text())["size"] == 48 and set(sizes) == {(48, 6)}
        count = len(list((run / "eval").glob("features-*")))
        assert call(monkeypatch, "eval", verb, *words[:-2], *published) == 0
        assert len(list((run / "eval").glob("features-*"))) == count + 2


def test_random_weights_stand_beside_the_trained_ones(
    run: Path, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    # compare leaves its picture there
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *tuning(run, trees)) == 0
    assert call(monkeypatch, *tuning(run, trees, "--random")) == 0
    trained, random = (start(run / "eval" / name) for name in ("finetune", "finetune-random"))
    config: Config = load_run(run)[0]
    assert config.run.seed == 5
    initial, learnt = make_model(config).state_dict(), load_run(run)[1].state_dict()
    inside = [name for name in random if name.startswith("encoder.")]
    assert all(torch.equal(random[name], initial[name.removeprefix("encoder.")]) for name in inside)
    assert all(torch.equal(trained[name], learnt[name.removeprefix("encoder.")]) for name in inside)
    assert any(not torch.equal(random[name], trained[name]) for name in inside)
    # the rest of the recipe is the same, the head's first weights too
    assert all(torch.equal(random[name], trained[name]) for name in random if name not in inside)
    one, other = (
        json.loads((run / "eval" / f"{name}.json").read_text()) for name in ("finetune", "finetune-random")
    )
    assert (one["weights"], other["weights"]) == ("trained", "initial")
    assert (other["step"], other["images_seen"]) == (0, 0) and one["step"] > 0
    changed = {key for key in one["settings"] if one["settings"][key] != other["settings"][key]}
    assert changed == {"run", "finetune"} and one["steps"] == other["steps"]
    # the other weights by the same name
    capsys.readouterr()
    assert call(monkeypatch, *tuning(run, trees, "--random", "--run.name", "finetune")) == 1
    assert "finetune.weights: " in capsys.readouterr().err
    # both are in what reads evaluations
    shutil.copytree(run, tmp_path / "copy")
    assert call(monkeypatch, "report", str(run), "--out", str(tmp_path / "report.html")) == 0
    page = (tmp_path / "report.html").read_text()
    assert "fine-tuned" in page and "the same from random weights" in page
    capsys.readouterr()
    assert call(monkeypatch, "compare", str(run), str(tmp_path / "copy")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "finetune, fine-tuned" in said and "finetune-random, the same from random" in said


def test_a_file_has_random_weights_too(
    run: Path, trees: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = tuning(run / "export" / "model.safetensors", trees, "--random", "--json", "out.json")
    assert call(monkeypatch, *words) == 0
    result = json.loads(Path("out.json").read_text())
    assert result["weights"] == "initial" and "sha256" not in result
    assert Path("runs/eval-r-export/finetune-random/result.json").exists()
