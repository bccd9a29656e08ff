"""`turbomim eval finetune` as a user types it: how it begins, exact resumes, refusals of one line.

Planted, each seen to fail the test named: a new encoder in place of the pre-trained one
(`test_it_begins_with_the_pre_trained_encoder_and_a_new_head`); RandAugment drawn from generators that go on
(`test_stopped_or_killed_it_is_the_same_run`); seeds of the rank (`test_two_ranks_are_one`); the weights'
digest left out of the settings (`test_other_weights_are_another_run`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.calls import assert_one_line, call
from tests.runs import (
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
from tests.train.finetune.tuning import attempt, ranked, settings

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder.source import load_source
from turbomim.train.finetune.asked import FinetuneAsked
from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.finetune import finetune
from turbomim.train.finetune.settings import finetune_settings
from turbomim.train.folder import checkpoint
from turbomim.train.folder.mirror import Mirror
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.finetune import FinetuneConfig
from turbomim.train.settings.plan import Plan, make_plan
from turbomim.train.settings.schedule import with_steps


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
