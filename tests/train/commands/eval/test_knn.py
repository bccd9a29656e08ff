"""`turbomim eval` as a user types it: what it prints, writes and refuses.

Planted, each seen to fail `test_scores_are_of_the_checkpoint_and_of_both_baselines`: the trained model scored
before its checkpoint was loaded, train and test splits exchanged, both measures under one name;
`test_train_samples_are_drawn_over_all_classes`: the first ids instead of drawn ones; and
`test_one_class_or_none_is_not_scored`: 100 % of one class, a flat folder that is a class;
`test_an_image_that_cannot_be_decoded_is_left_out`: all images of the split as scored, features kept for the
mended split; `test_images_under_way_are_shown_on_a_terminal_alone`: no bar, a line in a pipe.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tests.broken_split import with_broken_image
from tests.calls import assert_one_line, call

import turbomim
from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.encoder.features import encode, load_run
from turbomim.train.evaluate.knn import knn
from turbomim.train.evaluate.probe import fit_linear_probe
from turbomim.train.evaluate.splits import choose_ids
from turbomim.train.models.mae import MAE
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config, DataConfig, RunConfig, StepConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.terminal import progress


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Split:
    """A test split of the same classes: 5 flat pictures of each, of another brightness."""
    folder = tmp_path_factory.mktemp("other")
    random = np.random.default_rng(0)
    for label, name in enumerate(sorted(path.name for path in photo_folder.iterdir())):
        (folder / "trees" / name).mkdir(parents=True)
        for number in range(5):
            pixels = np.clip(40 + 80 * label + random.normal(0, 30, (44, 50, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "trees" / name / f"{number}.png")
    make_shards(folder / "trees", folder / "shards", ShardSettings(split="test", shard_size=9))
    return open_split(folder / "shards")


@pytest.fixture(scope="module")
def run(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of a tiny model."""
    config = Config(
        data=DataConfig(path=str(tiny_split.folder), size=32, threads=1, readers=1),
        model=ModelConfig(
            patch=8, width=32, depth=2, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2
        ),
        optim=OptimConfig(epochs=1.4, warmup_epochs=0, base_lr=0.1, global_batch=8),
        step=StepConfig(device="cpu", compile=False),
        run=RunConfig(folder=str(tmp_path_factory.mktemp("runs")), name="r"),
    )
    return pretrain(config, console=Console(file=io.StringIO())).folder


def tensors(model: MAE, split: Split, ids: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean patch tokens and labels, by the parts alone."""
    batches = list(centre_crops(split, ids, CentreCrop(size=32), batch=8, threads=1))
    means = [encode(model.eval(), torch.from_numpy(images))["mean of patch tokens"] for images, _ in batches]
    return torch.cat(means), torch.cat([torch.from_numpy(labels) for _, labels in batches])


def result(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def test_scores_are_of_the_checkpoint_and_of_both_baselines(
    run: Path,
    tiny_split: Split,
    other: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, _, step = load_run(run)
    assert step == 6
    trained = MAE(config)
    trained.load_state_dict(load_file(run / "ckpt" / "step-00000006" / "model.safetensors"))
    words = [str(run), "--train", str(tiny_split.folder), "--test", str(other.folder), "--samples", "25"]
    found = {}
    for verb in ("knn", "linear"):
        for number in (1, 2):
            file = tmp_path / f"{verb}{number}.json"
            assert call(monkeypatch, "eval", verb, *words, "--json", str(file)) == 0
        assert (tmp_path / f"{verb}1.json").read_bytes() == (tmp_path / f"{verb}2.json").read_bytes()
        found[verb] = result(tmp_path / f"{verb}1.json")
        out = capsys.readouterr().out
        assert "random weights: mean of patch tokens" in out and "raw pixels" in out
    assert (found["knn"]["train_samples"], found["knn"]["test_samples"]) == (25, 15)
    assert (found["knn"]["step"], found["knn"]["images_seen"]) == (6, 48)

    with torch.no_grad():
        ids = choose_ids(tiny_split, 25)
        for name, model in (("trained", trained), ("random weights", MAE(config))):
            learned, scored = tensors(model, tiny_split, ids), tensors(model, other, np.arange(15))
            votes = knn(*learned, *scored)
            scores = found["knn"]["scores"][f"{name}: mean of patch tokens"]
            assert scores == {"20 neighbours": votes.majority, "weighted": votes.weighted}
            with torch.enable_grad():
                accuracy = fit_linear_probe(*learned).accuracy(*scored)
            linear = found["linear"]["scores"][f"{name}: mean of patch tokens"]
            assert linear == {"linear probe": accuracy}
    of = found["linear"]["scores"]
    assert len({of[name]["linear probe"] for name in of}) > 1, "encoders that score alike show nothing"


PUBLISHED = ["linear", "--recipe", "published", "--epochs", "1", "--head-batch", "32"]


@pytest.mark.parametrize("verb", [["knn"], ["linear"], PUBLISHED])
def test_an_image_that_cannot_be_decoded_is_left_out(
    verb: list[str],
    run: Path,
    tiny_split: Split,
    other: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The score is of the others, and says so; once the split is mended it is of all."""
    train, test = (
        with_broken_image(split.folder, tmp_path / name, 4)
        for name, split in (("train", tiny_split), ("test", other))
    )
    file = tmp_path / "s.json"
    words = [*verb, str(run), "--train", str(train.folder), "--test", str(test.folder), "--json", str(file)]
    assert call(monkeypatch, "eval", *words) == 0
    counts = ("train_samples", "train_left_out", "test_samples", "test_left_out")
    assert [result(file)[name] for name in counts] == [32, 1, 14, 1]
    found = capsys.readouterr()
    assert "1 left out" in found.out
    for split in (train, test):
        named = f"turbomim: {split.locate(4)} in {str(split.folder)!r} cannot be decoded ("
        assert any(line.startswith(named) and line.endswith("): left out") for line in found.err.splitlines())
    for damaged, whole in ((train, tiny_split), (test, other)):
        for name in sorted(path.name for path in whole.folder.iterdir()):
            (damaged.folder / name).write_bytes((whole.folder / name).read_bytes())
    assert call(monkeypatch, "eval", *words) == 0
    assert [result(file)[name] for name in counts] == [33, 0, 15, 0]
    found = capsys.readouterr()
    assert "left out" not in found.out + found.err and "damaged" not in found.out


@pytest.mark.parametrize(
    "verb", [["knn"], PUBLISHED, [*PUBLISHED, "--augment"]], ids=["knn", "published", "augment"]
)
def test_images_under_way_are_shown_on_a_terminal_alone(
    verb: list[str],
    run: Path,
    tiny_split: Split,
    other: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)
    options: dict[str, Any] = (
        {"recipe": "published", "epochs": 1, "head_batch": 32} if verb != ["knn"] else {}
    )
    options |= {"augment": True} if "--augment" in verb else {}
    shown = {}
    shutil.copytree(run, tmp_path / "run")
    for terminal in (True, False):
        # features that are kept
        shutil.rmtree(tmp_path / "run" / "eval", ignore_errors=True)
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=100)
        turbomim.evaluate(
            tmp_path / "run",
            "knn" if verb == ["knn"] else "linear",
            train=tiny_split.folder,
            test=other.folder,
            console=console,
            **options,
        )
        shown[terminal] = out.getvalue()
    total = 64 if "--augment" in verb else 33
    assert f"{total} of {total} images" in shown[True] and "15 of 15 images" in shown[True]
    assert shown[False] == ""


@pytest.mark.parametrize("verb", [["knn"], ["linear"], ["linear", "--recipe", "published", "--epochs", "1"]])
def test_a_split_that_is_scored_on_itself_is_named(
    verb: list[str],
    run: Path,
    tiny_split: Split,
    other: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = "hold the same samples: scores are of what was learned from"
    for test in (other, tiny_split):
        words = [*verb, str(run), "--train", str(tiny_split.folder), "--test", str(test.folder)]
        more = ["--head-batch", "33"] if "published" in verb else []
        assert call(monkeypatch, "eval", *words, *more, "--json", str(tmp_path / "s.json")) == 0
        assert (said in capsys.readouterr().out) == (test is tiny_split)


def test_one_class_or_none_is_not_scored(
    run: Path,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "ash").symlink_to(photo_folder / "ash")
    for name, source in (("flat", photo_folder / "ash"), ("single", tmp_path / "one")):
        make_shards(source, tmp_path / name)
        for command in (["eval", "knn"], ["eval", "linear"], ["analyze", "robustness"]):
            words = [str(run), "--train", str(tmp_path / name), "--test", str(tmp_path / name)]
            assert call(monkeypatch, *command, *words) == 1
            err = capsys.readouterr().err
            assert f"{tmp_path / name} has no classes to tell apart" in err and len(err.splitlines()) == 1


def test_train_samples_are_drawn_over_all_classes(tiny_split: Split) -> None:
    drawn = choose_ids(tiny_split, 20)
    assert len(set(drawn.tolist())) == 20 and drawn.tolist() != sorted(drawn.tolist())
    assert sorted(choose_ids(tiny_split, 0).tolist()) == list(range(33))
    assert choose_ids(tiny_split, 10_000).tolist() == choose_ids(tiny_split, 0).tolist()
    assert choose_ids(tiny_split, 0)[:20].tolist() == drawn.tolist()


def test_a_result_of_other_settings_is_replaced_and_named(
    run: Path, tiny_split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny_split.folder)
    plain = ["eval", "knn", str(run), "--train", path, "--test", path]
    assert call(monkeypatch, *plain, "--samples", "20") == 0
    assert call(monkeypatch, *plain, "--samples", "20") == 0
    assert "replaced" not in capsys.readouterr().out
    assert call(monkeypatch, *plain, "--samples", "25") == 0
    said = "knn.json was of other settings (train_samples 20, now 25) and is replaced: --json FILE keeps both"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["eval"], 2, "eval needs a command: knn, linear"),
        (["eval", "kn"], 2, "unknown eval command 'kn': did you mean knn?"),
        (
            ["eval", "knn", "/nowhere", "--train", "T", "--test", "T"],
            1,
            "/nowhere is not a run: it does not exist",
        ),
        (
            ["eval", "linear", "RUN", "--train", "T", "--test", "T", "--samples", "3"],
            2,
            "(all) or at least 5",
        ),
        (["eval", "knn", "RUN", "--train", "/nowhere", "--test", "T"], 1, "no manifest.json in '/nowhere'"),
        (
            ["eval", "knn", "RUN", "--train", "T", "--test", "T", "--samples", "3"],
            2,
            "0 (all) or at least 20",
        ),
        (["eval", "knn", "RUN", "--train", "T", "--test", "T", "--batch", "0"], 2, "must be at least 1"),
        (["eval", "linear", "RUN", "--train", "T", "--test", "T", "--json", "/tmp"], 2, "is a folder"),
        (
            ["eval", "knn", "RUN", "--train", "T", "--test", "T", "--data.size", "48"],
            2,
            "--size is the side of the crops",
        ),
        (["eval", "knn", "RUN", "--train", "O", "--test", "O"], 1, "has 15 samples: 20 are needed"),
        (["eval", "knn", "RUN", "--train", "T", "--test", "B"], 1, "have other classes (3 and 2"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    run: Path,
    tiny_split: Split,
    other: Split,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    paths = {"RUN": run, "T": tiny_split.folder, "O": other.folder, "B": tmp_path / "two"}
    if "B" in words:
        source = tmp_path / "photos"
        for name in ("ash", "birch"):
            (source / name).mkdir(parents=True)
            for path in (photo_folder / name).iterdir():
                (source / name / path.name).write_bytes(path.read_bytes())
        make_shards(source, tmp_path / "two", ShardSettings(shard_size=9))
    assert call(monkeypatch, *(str(paths.get(word, word)) for word in words)) == code
    assert_one_line(capsys, message)


def test_a_run_without_a_checkpoint_is_refused(
    run: Path, tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    path = str(tiny_split.folder)
    assert call(monkeypatch, "eval", "knn", str(tmp_path), "--train", path, "--test", path) == 1
    assert "has no whole checkpoint yet" in capsys.readouterr().err


def test_the_solved_probe_needs_no_neighbours(
    run: Path, other: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = str(other.folder), tmp_path / "r.json"
    words = [str(run), "--train", path, "--test", path, "--json", str(file)]
    assert call(monkeypatch, "eval", "linear", *words) == 0
    found = result(file)
    assert (found["train_samples"], found["crop"]) == (15, 1.0)
    assert 0 < found["scores"]["raw pixels"]["linear probe"] <= 1
