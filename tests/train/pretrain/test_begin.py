"""`pretrain --from RUN`: a new run with another one's weights, on any ranks, after any kill.

Planted bugs and the test that fails on each: weights not loaded, moments kept, ranks but the first left out
(`test_a_run_begins_with_the_weights_of_another`); the record written last, or not looked at
(`test_a_kill_before_the_first_step`).
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.calls import call
from tests.runs import (
    as_rank,
    config_for,
    finish,
    launch,
    launch_ranks,
    outcome,
    quiet,
    records,
)

from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.begun import begun_in_words, read_begun
from turbomim.train.loop.run import Run
from turbomim.train.pretrain import begin
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.report.run import read_run
from turbomim.train.report.summary import summarise_run
from turbomim.train.settings.config import Config

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def trained(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, over.  Do not change it."""
    runs = tmp_path_factory.mktemp("runs")
    pretrain(config_for(tiny_split.folder, runs, optim={"epochs": 1, "warmup_epochs": 0}), console=quiet())
    return runs / "r"


def other(trees: Path, **sections: dict[str, Any]) -> Config:
    """Another schedule, of a run in this test's own folder."""
    optim = {"epochs": 1, "warmup_epochs": 0.5, "base_lr": 0.01, **sections.pop("optim", {})}
    return config_for(trees, Path("runs"), optim=optim, **sections)


def attempt_from(config: Config, run: Path) -> None:
    """A process of a run that begins with the weights of another one."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    pretrain(config, console=quiet(), begins_from=run)


def ranked_from(config: Config, run: Path, rank: int, world: int, port: int) -> None:
    """`attempt_from` as one of several ranks."""
    as_rank(rank, world, port)
    attempt_from(config, run)


def refusal(config: Config, run: Path | None) -> str:
    """What a start says that is refused, and a dry run as well; neither leaves anything."""
    said = []
    for dry_run in (True, False):
        with pytest.raises(UserError) as error:
            pretrain(config, console=quiet(), begins_from=run, dry_run=dry_run)
        said.append(str(error.value))
    assert said[0] == said[1] and "\n" not in said[0]
    return said[0]


@pytest.mark.parametrize(("world", "shard"), [(1, False), (2, False), (2, True)])
def test_a_run_begins_with_the_weights_of_another(
    world: int, shard: bool, trained: Path, trees: Path, tmp_path: Path
) -> None:
    config = other(trees, step={"shard": shard}, run={"keep": 9, "save_every": 1})
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, folder=str(tmp_path / "runs")))
    processes = launch_ranks(ranked_from, world, config, trained)
    assert [finish(process) for process in processes] == [0] * world
    new = tmp_path / "runs" / "r"
    begun = load_file(new / "ckpt" / "step-00000000" / "model.safetensors")
    before = load_file(trained / "ckpt" / "step-00000005" / "model.safetensors")
    assert begun.keys() == before.keys() and all(torch.equal(begun[name], before[name]) for name in before)
    after = load_file(new / "ckpt" / "step-00000005" / "model.safetensors")
    assert not torch.equal(after["mask_token"], before["mask_token"])
    moments = load_file(new / "ckpt" / "step-00000000" / "optimizer.safetensors")
    assert not any(tensor.any() for tensor in moments.values())
    assert [(r["step"], r["position"]) for r in records(new)] == [(n, 8 * n) for n in range(1, 6)]
    words = begun_in_words(read_begun(new))
    assert words.startswith(f"{trained.parent.name}/r at step 5, sha256 ")
    assert summarise_run(read_run(new, "r"))["began with"] == words
    assert f"began with {words}" in (new / "train.log").read_text()


class Killed(Exception):
    """Stands for a signal."""


def test_a_kill_before_the_first_step(trained: Path, trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, new = other(trees), Path("runs/r")
    attempt_from(config, trained)
    whole = outcome(new)
    shutil.rmtree(new)

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    for owner, name in ((begin, "write_first_checkpoint"), (Run, "go")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            with pytest.raises(Killed):
                pretrain(config, console=quiet(), begins_from=trained)
        if owner is begin:
            said = refusal(config, None)
            assert f"was to begin with {trained.parent.name}/r at step 5" in said
            assert f"give --from {trained} again" in said
    # it has its weights now, and needs the other run no more
    pretrain(config, console=quiet())
    assert outcome(new) == whole
    pretrain(config, console=quiet(), begins_from=trained)


def test_what_cannot_begin_a_run_is_refused_before_there_is_a_folder(trained: Path, trees: Path) -> None:
    wide = other(trees, model={"width": 64, "depth": 1})
    said = refusal(wide, trained)
    assert f"--from {trained}: " in said
    assert "tensors would not fit this model, 'blocks.0.attn.proj.bias' first" in said
    assert "((32,) there, (64,) here)" in said and f"which are in {trained}/config.yaml" in said
    assert "is not a run: it does not exist" in refusal(other(trees), Path("nowhere"))
    empty = Path("empty")
    empty.mkdir()
    shutil.copy(trained / "config.yaml", empty)
    assert "--from empty: it has no checkpoint yet" in refusal(other(trees), empty)
    own = config_for(trees, trained.parent)
    assert "the new run would have this folder, too: give another --run.name" in refusal(own, trained)
    assert not Path("runs").exists()


def test_a_run_that_began_otherwise_is_not_gone_on_with(trained: Path, trees: Path) -> None:
    config = other(trees)
    pretrain(config, console=quiet())
    said = refusal(config, trained)
    assert f"runs/r holds a run that did not begin with the weights of {trained}: leave --from out" in said


def test_it_is_named_where_a_run_cannot_go_on(
    trained: Path, trees: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the words that are named do it: without a recipe the settings are those of the other run."""
    longer = config_for(trees, trained.parent, optim={"epochs": 2, "warmup_epochs": 0})
    assert f"--run.name to start a new one (--from {trained} gives it these weights)" in refusal(longer, None)
    done = dataclasses.replace(longer, optim=dataclasses.replace(longer.optim, epochs=1))
    pretrain(done, console=quiet())
    log = (trained / "train.log").read_text()
    assert f"nothing to do; to train longer give another --run.name (--from {trained} gives it these" in log
    assert call(monkeypatch, "pretrain", "--from", "nowhere", "--run.name", "x") == 1
    assert "nowhere is not a run: it does not exist" in capsys.readouterr().err
    words = ("--from", str(trained), "--run.folder", "runs", "--run.name", "longer", "--optim.epochs", "0.5")
    assert call(monkeypatch, "pretrain", *words) == 0
    assert "from the weights in runs/longer/ckpt/step-00000000: step 0 of 3" in capsys.readouterr().out


def test_in_a_process_of_its_own(trained: Path, trees: Path, tmp_path: Path) -> None:
    """A run that began so, begins another one: both are told."""
    second = dataclasses.replace(other(trees).run, folder=str(tmp_path / "runs"), name="second")
    config = dataclasses.replace(other(trees), run=second)
    assert finish(launch(attempt_from, config, trained)) == 0
    third = dataclasses.replace(config, run=dataclasses.replace(second, name="third"))
    assert finish(launch(attempt_from, third, tmp_path / "runs" / "second")) == 0
    words = begun_in_words(read_begun(tmp_path / "runs" / "third"))
    assert "runs/second at step 5" in words
    assert f", which began with {trained.parent.name}/r at step 5" in words
