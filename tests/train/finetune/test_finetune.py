"""`turbomim eval finetune` as a user types it: it learns, resumes exactly, and refuses in one line.

Planted, each seen to fail the test named: a new encoder in place of the pre-trained one
(`test_it_begins_with_the_pre_trained_encoder_and_a_new_head`); labels of the next sample, the train split
scored (`test_it_learns_what_can_be_told_apart`); the result of the log's last test, whatever its step
(`test_it_learns_what_can_be_told_apart`, `test_a_test_before_a_roll_back_is_of_other_weights`); RandAugment
drawn from generators that go on (`test_stopped_or_killed_it_is_the_same_run`); seeds of the rank
(`test_two_ranks_are_one`); the weights' digest left out of the settings
(`test_other_weights_are_another_run`); shares of all test images where one is left out
(`test_a_test_image_that_cannot_be_decoded_is_left_out`); the error of a test raised at its log line, before
the last checkpoint (`test_a_test_that_fails_loses_no_step`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.broken_split import with_broken_image
from tests.calls import assert_one_line, call
from tests.runs import (
    as_rank,
    config_for,
    finish,
    killed_at_the_end,
    launch,
    launch_ranks,
    outcome,
    quiet,
    records,
    status,
    wait_for,
)

from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crops
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.encoder.features import normalised
from turbomim.train.encoder.source import load_source
from turbomim.train.finetune.asked import FinetuneAsked
from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.finetune import finetune, with_classes
from turbomim.train.finetune.settings import finetune_settings
from turbomim.train.finetune.task import find_test_of_last_weights
from turbomim.train.folder import checkpoint
from turbomim.train.folder.mirror import Mirror
from turbomim.train.models.classifier import Classifier
from turbomim.train.models.methods import make_model
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.finetune import FinetuneConfig
from turbomim.train.settings.plan import Plan, make_plan
from turbomim.train.settings.schedule import with_steps

COLOURS = {"blue": (40, 60, 190), "green": (50, 170, 60), "red": (180, 50, 40)}


def coloured(folder: Path, each: int, seed: int) -> Path:
    """A split of noisy pictures of three colours, a class each."""
    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(np.array(colour) + random.normal(0, 40, (40, 44, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number:02d}.png")
    make_shards(folder / "photos", folder / "shards", ShardSettings(split=folder.name, shard_size=13))
    return folder / "shards"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train shards of 48 pictures, test shards of 15."""
    folder = tmp_path_factory.mktemp("colours")
    return {"train": coloured(folder / "train", 16, 0), "test": coloured(folder / "test", 5, 1)}


@pytest.fixture(scope="module")
def pretrained(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of a tiny model."""
    config = config_for(tiny_split.folder, tmp_path_factory.mktemp("runs"), optim={"epochs": 1})
    return pretrain(config, console=quiet()).folder


# 48 samples: 3 steps of 16 an epoch; a tiny model's head begins large enough to learn in seconds
FLAGS: dict[str, dict[str, Any]] = {
    "optim": {"base_lr": 0.05},
    "finetune": {"head_std": 0.02, "layer_decay": 0.9},
    "run": {"log_every": 1, "save_every": 2},
    "step": {"device": "cpu", "compile": False},
}


def settings(
    pretrained: Path, shards: dict[str, Path], folder: Path, epochs: float = 4, **flags: dict[str, Any]
) -> FinetuneConfig:
    """Three steps an epoch, in a folder of its own."""
    asked = FinetuneAsked(train=str(shards["train"]), test=str(shards["test"]), epochs=epochs, batch=16)
    laid = {name: {**FLAGS.get(name, {}), **flags.get(name, {})} for name in {*FLAGS, *flags}}
    laid["run"]["folder"] = str(folder)
    return finetune_settings(asked, load_source(pretrained, {}), laid)


def attempt(config: FinetuneConfig, pretrained: Path) -> None:
    """One process of one attempt."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    finetune(config, load_source(pretrained, {}), console=quiet())


def ranked(config: FinetuneConfig, pretrained: Path, rank: int, world: int, port: int) -> None:
    as_rank(rank, world, port)
    attempt(config, pretrained)


def test_a_warm_up_named_beside_steps_is_no_share(pretrained: Path, shards: dict[str, Path]) -> None:
    """Planted, and seen to fail: a share of the published epochs."""
    asked = FinetuneAsked(train=str(shards["train"]), test=str(shards["test"]), batch=16)
    flags = {"optim": {"steps": 30, "warmup_epochs": 2}}
    optim = with_steps(finetune_settings(asked, load_source(pretrained, {}), flags), 48).optim
    assert (optim.epochs, optim.warmup_epochs) == pytest.approx((10, 2))


def test_it_begins_with_the_pre_trained_encoder_and_a_new_head(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["eval", "finetune", str(pretrained), "--train", str(shards["train"])]
    words += ["--test", str(shards["test"]), "--epochs", "0.3", "--batch", "16", "--json", "scores.json"]
    words += ["--step.compile", "false", "--run.folder", "kept", "--finetune.drop_path", "0.2"]
    assert call(monkeypatch, *words) == 0
    start = load_file("kept/finetune/ckpt/step-00000000/model.safetensors")
    encoder = load_file(pretrained / "export" / "model.safetensors")
    assert all(
        torch.equal(start[f"encoder.{name}"], tensor)
        for name, tensor in encoder.items()
        if not name.startswith("norm.")
    )
    rest = {name for name in start if name.removeprefix("encoder.") not in encoder}
    assert rest == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert start["head.weight"].shape == (3, 32)
    result = json.loads(Path("scores.json").read_text())
    assert json.loads(Path("kept/finetune/result.json").read_text()) == result
    assert (result["test_samples"], result["train_samples"], result["steps"]) == (15, 48, 1)
    assert result["settings"]["finetune"]["drop_path"] == 0.2 and result["run"] == str(pretrained)
    # warm-up keeps its twentieth
    assert result["settings"]["optim"]["warmup_epochs"] == pytest.approx(0.015)
    assert result["settings"]["optim"]["base_lr"] == 5e-4
    # of three classes all are among the first five
    assert list(result["scores"]["fine-tuned"]) == ["top-1"] and 0 <= result["top1"] <= 1
    assert "top5" not in result and "test_top5" not in records(Path("kept/finetune"))[-1]
    assert (result["crop"], result["encoder"]) == (1.0, "32 px, patch 8, 32x2, 2 heads")
    log = Path("kept/finetune/train.log").read_text()
    assert "a new run from the weights in kept/finetune/ckpt/step-00000000: step 0 of 1" in log
    assert "resumed" not in log and "top-5" not in log
    # said again, nothing trained
    assert call(monkeypatch, *words) == 0
    assert json.loads(Path("scores.json").read_text()) == result
    assert len(records(Path("kept/finetune"))) == 1
    Path("kept/finetune/metrics.jsonl").unlink()
    assert call(monkeypatch, *words) == 0
    assert json.loads(Path("scores.json").read_text()) == result


def test_a_bare_machine_goes_on_from_its_mirror(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the checkpoint before the last, to the same weights and losses."""
    ckpt = tmp_path / "own" / "finetune" / "ckpt"
    # each, however fast they come
    monkeypatch.setattr(Mirror, "written", lambda mirror: mirror.copy_now(checkpoint.complete(ckpt)[0]))
    whole = finetune(settings(pretrained, shards, tmp_path), load_source(pretrained, {}), console=quiet())
    flags = {"mirror": str(tmp_path / "mirror")}
    config = settings(pretrained, shards, tmp_path / "own", run=flags)
    copied = tmp_path / "mirror" / pretrained.name / "eval" / "finetune"
    finetune(config, load_source(pretrained, {}), console=quiet())
    newest = sorted((copied / "ckpt").glob("step-*"))[-1]
    shutil.rmtree(newest)
    shutil.rmtree(tmp_path / "own")
    found = finetune(config, load_source(pretrained, {}), console=quiet())
    log = (found.folder / "train.log").read_text()
    assert "comes from the mirror" in log and "resumed from" in log and "step-00000010: step 10 of 12" in log
    assert outcome(found.folder) == outcome(whole.folder)
    for name in ("result.json", "metrics.jsonl", f"ckpt/{newest.name}/model.safetensors"):
        assert (copied / name).read_bytes() == (found.folder / name).read_bytes()


def test_it_learns_what_can_be_told_apart(pretrained: Path, shards: dict[str, Path], tmp_path: Path) -> None:
    config = settings(pretrained, shards, tmp_path, 16, run={"eval_every": 24, "save_every": 50})
    result = finetune(config, load_source(pretrained, {}), console=quiet())
    assert (result.status, result.step) == ("done", 48)
    found = records(result.folder)
    tested = [record for record in found if "test_top1" in record]
    assert [record["step"] for record in tested] == [24, 48]
    # of 15; a third by chance
    assert tested[-1]["test_top1"] >= 0.9 and tested[-1]["test_loss"] < 0.8
    assert found[0]["loss"] > found[-1]["loss"]
    # by the parts, of the last checkpoint
    settings_again, config = config, with_classes(config, 3)
    model = Classifier(make_model(config), config).eval()
    checkpoint.load(result.folder / "ckpt" / "step-00000048", model)
    ids = np.arange(15)
    test = open_split(shards["test"])
    ((pixels, labels),) = centre_crops(test, ids, CentreCrop(size=32), batch=15, threads=1)
    with torch.no_grad():
        logits_BK = model.logits(normalised(torch.from_numpy(pixels)))
    loss = torch.nn.functional.cross_entropy(logits_BK, torch.from_numpy(labels))
    assert tested[-1]["test_loss"] == pytest.approx(float(loss), rel=1e-5)
    # at the warm-up's end the head has the full rate, and the log says that
    assert max(record["lr"] for record in found) == pytest.approx(0.05 * 16 / 256, rel=0.1)
    # a log that lost its last line has the test of other weights
    written, metrics = (result.folder / "result.json").read_text(), result.folder / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(record) + "\n" for record in found[:-1]))
    finetune(settings_again, load_source(pretrained, {}), console=quiet())
    assert (result.folder / "result.json").read_text() == written


def test_a_test_before_a_roll_back_is_of_other_weights() -> None:
    """The loop tests at a log line, and rolls back after it."""
    first, last = ({"step": step, "skipped_in_a_row": step, "test_top1": 0.5} for step in (4, 8))
    assert find_test_of_last_weights([first, last], 8, max_skipped=9) == last
    assert find_test_of_last_weights([first, last], 8, max_skipped=8) is None
    assert find_test_of_last_weights([first, last | {"step": 7}], 8, max_skipped=9) is None


def test_stopped_or_killed_it_is_the_same_run(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = settings(pretrained, shards, tmp_path / "whole")
    attempt(whole, pretrained)
    expected = outcome(tmp_path / "whole" / "finetune")
    assert len(expected[1]) == 12

    stopped = settings(pretrained, shards, tmp_path / "stopped")
    calls = []

    def asked_to_stop(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return augmented_batch(*args)

    monkeypatch.setattr("turbomim.train.finetune.task.augmented_batch", asked_to_stop)
    attempt(stopped, pretrained)
    state = status(tmp_path / "stopped" / "finetune")
    assert (state["status"], state["step"]) == ("preempted", 5)
    attempt(stopped, pretrained)
    assert outcome(tmp_path / "stopped" / "finetune") == expected

    killed = settings(pretrained, shards, tmp_path / "killed")
    process = launch(attempt, killed, pretrained)
    ckpt = tmp_path / "killed" / "finetune" / "ckpt"
    with killed_at_the_end([process]):
        wait_for((ckpt / "step-00000004" / "COMPLETE").exists, process)
    assert finish(process) == -signal.SIGKILL
    attempt(killed, pretrained)
    assert outcome(tmp_path / "killed" / "finetune") == expected


def test_two_ranks_are_one(pretrained: Path, shards: dict[str, Path], tmp_path: Path) -> None:
    """With the same micro-batch, in which images are mixed."""
    one, two = (
        settings(pretrained, shards, tmp_path / name, 1, optim={"micro_batch": 8}) for name in ("one", "two")
    )
    attempt(one, pretrained)
    processes = launch_ranks(ranked, 2, two, pretrained)
    assert [finish(process) for process in processes] == [0, 0]
    first, other = (records(tmp_path / name / "finetune") for name in ("one", "two"))
    assert len(first) == 3
    for mine, theirs in zip(first, other, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=2e-6)
    assert other[-1]["test_top1"] == first[-1]["test_top1"]
    assert other[-1]["test_loss"] == pytest.approx(first[-1]["test_loss"], abs=1e-5)


def test_another_micro_batch_would_mix_other_pairs(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told or by the number of ranks; without mixing it is free."""

    def of(name: str, micro_batch: int, **finetune: float) -> FinetuneConfig:
        optim = {"micro_batch": micro_batch}
        return settings(pretrained, shards, tmp_path / name, 1, optim=optim, finetune=finetune)

    attempt(of("mixed", 0), pretrained)
    with pytest.raises(UserError, match=r"optim\.micro_batch: 16 -> 8\).*give the old ones to resume it"):
        attempt(of("mixed", 8), pretrained)
    monkeypatch.setattr(
        "turbomim.train.loop.session.make_plan", lambda config, samples, world: of_two(config)
    )
    with pytest.raises(UserError, match=r"optim\.micro_batch: 16 -> 8\)"):
        attempt(of("mixed", 0), pretrained)
    monkeypatch.undo()
    attempt(of("mixed", 16), pretrained)

    for micro_batch in (0, 8):
        attempt(of("plain", micro_batch, mixup=0.0, cutmix=0.0), pretrained)


def of_two(config: FinetuneConfig) -> Plan:
    """The plan of two ranks."""
    return make_plan(config, 48, 2)


def test_other_weights_are_another_run(
    pretrained: Path,
    shards: dict[str, Path],
    tiny_split: Split,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: Any,
) -> None:
    config = config_for(tiny_split.folder, tmp_path, optim={"epochs": 1}, run={"seed": 5})
    other = pretrain(config, console=quiet()).folder
    words = ["--train", str(shards["train"]), "--test", str(shards["test"]), "--epochs", "0.3"]
    words += ["--batch", "16", "--step.compile", "false", "--run.folder", str(tmp_path / "kept")]
    assert call(monkeypatch, "eval", "finetune", str(pretrained), *words) == 0
    capsys.readouterr()
    assert call(monkeypatch, "eval", "finetune", str(other), *words) == 1
    said = capsys.readouterr().err
    assert "finetune.weights: " in said and "another --run.name" in said and said.count("\n") == 1


def test_a_test_image_that_cannot_be_decoded_is_left_out(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path
) -> None:
    """It is named once, and the result says so."""
    broken = with_broken_image(shards["test"], tmp_path / "broken", 4)
    config = settings(pretrained, {**shards, "test": broken.folder}, tmp_path, 1, run={"eval_every": 1})
    folder = finetune(config, load_source(pretrained, {}), console=quiet()).folder
    result = json.loads((folder / "result.json").read_text())
    assert (result["test_samples"], result["test_left_out"]) == (14, 1)
    assert result["top1"] * 14 == pytest.approx(round(result["top1"] * 14))
    log = (folder / "train.log").read_text()
    assert log.count("left out of the scores") == 1 and f"test: {broken.locate(4)}" in log
    assert "of 14 test images (1 left out); " in log
    # of the others: what the split without it gives
    kept = Classifier(make_model(with_classes(config, 3)), with_classes(config, 3)).eval()
    checkpoint.load(folder / "ckpt" / "step-00000003", kept)
    ids = np.delete(np.arange(15), 4)
    ((pixels, labels),) = centre_crops(
        open_split(shards["test"]), ids, CentreCrop(size=32), batch=15, threads=1
    )
    with torch.no_grad():
        logits_BK = kept.logits(normalised(torch.from_numpy(pixels)))
    loss = torch.nn.functional.cross_entropy(logits_BK, torch.from_numpy(labels))
    assert result["test_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_a_test_that_fails_loses_no_step(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are saved, and the same command tests them."""
    source = partial(load_source, pretrained, {})
    whole = finetune(settings(pretrained, shards, tmp_path / "whole", 1), source(), console=quiet()).folder
    config = settings(pretrained, shards, tmp_path / "own", 1, run={"save_every": 50})

    def gone(*args: Any, **more: Any) -> Any:
        raise UserError("the disk is gone")

    monkeypatch.setattr("turbomim.train.finetune.task.centre_crops", gone)
    with pytest.raises(UserError, match="the disk is gone"):
        finetune(config, source(), console=quiet())
    folder = tmp_path / "own" / "finetune"
    assert (folder / "ckpt" / "step-00000003" / "COMPLETE").exists() and status(folder)["status"] == "failed"
    assert not (folder / "result.json").exists() and len(records(folder)) == 3
    assert "not tested at this line: the disk is gone" in (folder / "train.log").read_text()
    monkeypatch.undo()
    taken = status(folder)["step"]
    found = finetune(config, source(), console=quiet())
    assert (found.status, found.step, taken, len(records(folder))) == ("done", 3, 3, 3)
    ours, theirs = (json.loads((each / "result.json").read_text()) for each in (folder, whole))
    assert {**ours, "settings": 0} == {**theirs, "settings": 0}


def test_more_than_five_outputs_have_a_top_5(
    pretrained: Path, shards: dict[str, Path], tmp_path: Path
) -> None:
    config = settings(pretrained, shards, tmp_path, 0.3, finetune={"classes": 7})
    folder = finetune(config, load_source(pretrained, {}), console=quiet()).folder
    result = json.loads((folder / "result.json").read_text())
    assert result["scores"]["fine-tuned"] == {"top-1": result["top1"], "top-5": result["top5"]}
    assert result["top1"] <= result["top5"] == records(folder)[-1]["test_top5"]
    assert ", top-5 " in (folder / "train.log").read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["/nowhere"], 1, "/nowhere is not a run"),
        (["RUN", "--train", "/nowhere"], 1, "--train /nowhere does not exist"),
        (["RUN", "--test", "OTHER"], 1, "have other classes (3 and 3, or other names)"),
        (["RUN", "--epochs", "0"], 2, "optim.epochs = 0.0: must be above 0"),
        (["RUN", "--optim.epochs", "ten"], 2, "optim.epochs = ten: must be a number"),
        (["RUN", "--batch", "15"], 2, "a micro-batch of 15 images cannot be mixed in pairs"),
        (["RUN", "--finetune.layer_decai", "1"], 2, "did you mean --finetune.layer-decay"),
        (["RUN", "--step.shard", "true"], 2, "step.shard = true: must be false"),
        (["RUN", "--data.size", "60"], 2, "data.size = 60: must be a multiple of model.patch (8)"),
        (["RUN", "--data.size", "big"], 2, "data.size = big: must be a whole number"),
        (["RUN", "--model.heads", "4"], 2, "--model.heads: a run has its own model"),
        (["RUN", "--json", "/tmp"], 2, "is a folder"),
        (["RUN", "--finetune.rand_augment", "rand-m9-zz1"], 2, "'rand-m9-zz1': timm knows no such policy"),
        (["RUN", "--run.name", "knn"], 2, "--run.name knn: RUN/eval/knn.json is another evaluation's"),
        (["RUN", "--run.name", "linear-published"], 2, "give another name"),
        (
            ["RUN", "--epochs", "1", "--optim.epochs", "2"],
            2,
            "--epochs is short for --optim.epochs: give one",
        ),
        (
            ["RUN", "--batch", "2", "--optim.global_batch", "2"],
            2,
            "--batch is short for --optim.global_batch",
        ),
        (["RUN", "--epochs", "1", "--optim.steps", "9"], 2, "epochs and --optim.steps both say how long"),
        (["RUN", "--base-lr", "1", "--optim.base_lr", "1"], 2, "--base-lr is short for --optim.base_lr"),
        (["RUN", "--finetune.classes", "2"], 1, "the train split has 3 classes"),
    ],
)
def test_what_cannot_be_is_one_line(
    pretrained: Path,
    shards: dict[str, Path],
    trees: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    paths = {"RUN": pretrained, "OTHER": trees}
    given = [str(paths.get(word, word)) for word in words]
    for flag, path in shards.items():
        if f"--{flag}" not in given:
            given += [f"--{flag}", str(path)]
    monkeypatch.chdir(tmp_path)
    given += ["--step.compile", "false", "--run.folder", str(tmp_path / "kept")]
    assert call(monkeypatch, "eval", "finetune", *given) == code
    assert_one_line(capsys, message)
    assert not (tmp_path / "kept").exists()
