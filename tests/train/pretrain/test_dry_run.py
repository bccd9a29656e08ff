"""`--dry-run` refuses what the run refuses, in the same words, and writes nothing.

Planted bugs and the test that fails on each: a check left out (its case of
`test_what_the_run_refuses_the_dry_run_refuses`); anything written (`files` of both tests).
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from tests.runs import config_for, quiet

from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.system.remedies import PlaceError
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import rundir
from turbomim.train.folder.mirror import Mirror
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config

pytestmark = pytest.mark.usefixtures("here")

Change = Callable[[Config], Config]


@pytest.fixture(scope="module")
def trained(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five steps with a mirror, over, with checkpoints of steps 4 and 5.  Do not change it."""
    runs = tmp_path_factory.mktemp("runs")
    optim, run = {"epochs": 1, "warmup_epochs": 0}, {"mirror": str(runs / "mirror"), "save_every": 2}
    pretrain(config_for(tiny_split.folder, runs / "runs", optim=optim, run=run), console=quiet())
    return runs


@pytest.fixture
def config(trained: Path, trees: Path) -> Config:
    """The settings of a copy of that run, in runs/r, with its mirror in mirror/r."""
    shutil.copytree(trained / "runs", "runs")
    shutil.copytree(trained / "mirror", "mirror")
    return config_for(trees, Path("runs"), optim={"epochs": 1, "warmup_epochs": 0}, run={"mirror": "mirror"})


def files() -> dict[str, bytes]:
    """Every file here, but for the lock that a process leaves, which nobody holds any more."""
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in sorted(Path().rglob("*"))
        if path.name != "lock"
    }


def dry(config: Config) -> str:
    """What a dry run says."""
    console = Console(file=io.StringIO(), width=200)
    pretrain(config, console=console, dry_run=True)
    said = console.file
    assert isinstance(said, io.StringIO)
    return said.getvalue()


def with_seed(config: Config) -> Config:
    """Other settings."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, seed=1))


def with_other_data(config: Config) -> Config:
    """Another data set: other photographs."""
    photographs = Path("photographs")
    photographs.mkdir()
    for number in range(8):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(photographs / f"{number}.png")
    make_shards(photographs, Path("other"), ShardSettings())
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path="other"))


def without_a_whole_checkpoint(config: Config) -> Config:
    """Damaged checkpoints."""
    for path in Path("runs/r/ckpt").glob("step-*"):
        (path / "state.json").write_text("{}")
    run = dataclasses.replace(config.run, mirror="")
    return dataclasses.replace(config, run=run)


def with_another_in_the_mirror(config: Config) -> Config:
    """A mirror that holds another run, and no folder here."""
    shutil.rmtree("runs/r")
    return with_seed(config)


def below_a_file(config: Config) -> Config:
    """A folder that cannot be made."""
    Path("file").write_text("")
    return dataclasses.replace(config, run=dataclasses.replace(config.run, folder="file/runs"))


def where_nobody_may_write(config: Config) -> Config:
    """Permissions let root, and the system does not."""
    return dataclasses.replace(config, run=dataclasses.replace(config.run, folder="/proc", mirror=""))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_seed, "runs/r holds a run with other settings (run.seed: 0 -> 1): give the old ones"),
        (with_other_data, "other is not the data set of runs/r/ckpt/step-00000005 (fingerprint "),
        (without_a_whole_checkpoint, "no checkpoint in runs/r/ckpt is whole (step-00000005, "),
        (with_another_in_the_mirror, "mirror/r holds a run with other settings (run.seed: 0 -> 1)"),
        (where_nobody_may_write, "cannot write '/proc/r': "),
        (below_a_file, "cannot write 'file/runs/r': "),
    ],
)
def test_what_the_run_refuses_the_dry_run_refuses(config: Config, change: Change, said: str) -> None:
    changed = change(config)
    before = files()
    words = []
    for dry_run in (True, False):
        with pytest.raises(UserError) as error:
            pretrain(changed, console=quiet(), dry_run=dry_run)
        words.append(str(error.value))
        if dry_run:
            assert files() == before
    assert said in words[0] and "\n" not in words[0]
    assert words[0].partition(":")[0] == words[1].partition(":")[0]


def test_a_folder_in_use_is_refused(config: Config) -> None:
    with rundir.lock_run(config):
        with pytest.raises(UserError, match=r"'runs/r' is in use by process \d+ .*: wait for its end"):
            dry(config)
        dry(dataclasses.replace(config, run=dataclasses.replace(config.run, lock=False)))
    # the next one is not kept out by having been asked
    dry(config)
    with rundir.lock_run(config):
        pass


def test_steps_and_what_does_nothing_are_said(trees: Path) -> None:
    """A run of so many steps takes them, and goes on as any other."""
    optim = {"steps": 3, "warmup_epochs": 0.1}
    model = {"target": "raw", "radius": 9.0}
    config = config_for(trees, Path("runs"), optim=optim, model=model, run={"log_every": 4})
    said = dry(config)
    assert "; 3 steps = 0.727273 epochs of 33 samples" in said
    assert "model.radius = 9.0 does nothing: model.target is raw" in said
    assert "run.log_every = 4 does nothing: the run has 3 steps, and its end comes first" in said
    console = Console(file=io.StringIO(), width=200)
    assert pretrain(config, console=console).step == 3
    assert rundir.read_config(Path("runs/r")).optim.steps == 3
    assert "model.radius = 9.0 does nothing" in Path("runs/r/train.log").read_text()
    # the settings that it kept are those that are given again
    assert pretrain(config, console=console).steps == 3
    assert "is done: 3 of 3 steps" in Path("runs/r/train.log").read_text()


def test_it_says_what_the_run_would_go_on_from_and_writes_nothing(config: Config) -> None:
    before = files()
    assert "runs/r is done, with step-00000005; dry run: nothing was trained" in dry(config)
    new = dataclasses.replace(config, run=dataclasses.replace(config.run, name="new"))
    assert "runs/new would be a new run; dry run" in dry(new)
    assert files() == before and not Path("runs/new").exists()
    shutil.rmtree("runs/r/ckpt/step-00000005")
    alone = dataclasses.replace(config, run=dataclasses.replace(config.run, mirror=""))
    assert "runs/r would go on from step-00000004, of 5 steps; dry run" in dry(alone)


def test_it_says_what_would_come_from_the_mirror(config: Config) -> None:
    """Planted, and seen to fail: what is on the disk alone."""
    shutil.rmtree("runs/r")
    before = files()
    assert "runs/r is done, with step-00000005 of the mirror mirror/r" in dry(config)
    assert files() == before


def test_a_mirror_that_refuses_is_told_of_in_the_runs_words(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted, and seen to fail: the place's own error, which names no setting."""

    def refused(self: Mirror) -> None:
        raise PlaceError("no credentials", passing=False)

    monkeypatch.setattr(Mirror, "check_same", refused)
    words, said = r"the mirror mirror/r cannot be used: no credentials.*check --run\.mirror", set()
    for dry_run in (True, False):
        with pytest.raises(UserError, match=words) as caught:
            pretrain(config, console=quiet(), dry_run=dry_run)
        said.add(str(caught.value))
    assert len(said) == 1
