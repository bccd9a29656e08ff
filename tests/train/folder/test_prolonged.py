"""A run of the schedule wsd that is prolonged ends as one that was that long from the start, bit for bit.

Planted, each seen to fail the test named: `run.keep` that removes the checkpoint before the decay, one of the
decay that is gone on from, a log that keeps the decay's lines (`test_prolonged_is_longer_from_the_start`);
warm-up as a share of the longer run (`test_warm_up_stays`); other settings beside the length let through
(`test_all_else_is_refused`).
"""

from __future__ import annotations

import dataclasses
import io
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.runs import attempt, config_for, finish, launch, outcome, quiet, records, status

from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import checkpoint
from turbomim.train.folder.rundir import read_config
from turbomim.train.loop.step import Step
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config

# of 33 photographs by 8
STEPS, LONGER = 21, 42


def wsd(data: Path, runs: Path, epochs: float = 5, **more: Any) -> Config:
    optim = {
        "epochs": epochs,
        "warmup_epochs": 1,
        "schedule": "wsd",
        "base_lr": 0.02,
        **more.pop("optim", {}),
    }
    run = {"save_every": 2, "log_every": 2, **more.pop("run", {})}
    return config_for(data, runs, optim=optim, run=run, **more)


def steps_kept(folder: Path) -> list[int]:
    return sorted(checkpoint.read_state(path).step for path in checkpoint.complete(folder / "ckpt"))


@pytest.mark.parametrize("first", ["done", "in the decay", "before it"])
def test_prolonged_is_longer_from_the_start(tiny_split: Any, tmp_path: Path, first: str) -> None:
    data, folder = tiny_split.folder, tmp_path / "r"
    config = wsd(data, tmp_path)
    if first == "done":
        assert pretrain(config, console=quiet()).steps == STEPS
        # 17 steps before the decay, and the two newest
        assert steps_kept(folder) == [17, 20, 21]
    else:
        stopped_at(config, 19 if first == "in the decay" else 13)
    said = Console(file=io.StringIO(), width=300)
    assert pretrain(wsd(data, tmp_path, 10), console=said).steps == LONGER
    pretrain(wsd(data, tmp_path / "whole", 10), console=quiet())
    assert outcome(folder) == outcome(tmp_path / "whole" / "r")
    assert [r["step"] for r in records(folder)] == [*range(2, LONGER + 1, 2)]
    assert {r["steps"] for r in records(folder) if r["step"] > 18} == {LONGER}
    assert status(folder)["status"] == "done" and status(folder)["step"] == LONGER
    assert read_config(folder).optim.epochs == 10
    assert steps_kept(folder) == steps_kept(tmp_path / "whole" / "r") == [33, 40, 42]
    text = said.file.getvalue()  # type: ignore[attr-defined]
    assert "prolonged from 5 to 10 epochs" in text
    assert ("in the decay of the shorter run, is replaced" in text) == (first != "before it")


def test_prolonged_and_killed_before_its_first_checkpoint(tiny_split: Any, tmp_path: Path) -> None:
    """It goes on from before the decay again, and on a machine that has only the mirror, too."""
    data, mirror = tiny_split.folder, {"mirror": str(tmp_path / "mirror")}
    pretrain(wsd(data, tmp_path, run=mirror), console=quiet())
    longer = wsd(data, tmp_path, 10, run={**mirror, "save_every": 30})
    stopped_at(longer, 25, signal.SIGKILL)
    assert steps_kept(tmp_path / "r") == [17] and status(tmp_path / "r")["status"] == "running"
    elsewhere = wsd(data, tmp_path / "other", 10, run=mirror)
    (tmp_path / "mirror/r/lease.json").unlink(missing_ok=True)
    assert pretrain(elsewhere, console=quiet()).status == "done"
    assert (
        pretrain(dataclasses.replace(longer, run=wsd(data, tmp_path).run), console=quiet()).status == "done"
    )
    pretrain(wsd(data, tmp_path / "whole", 10), console=quiet())
    assert outcome(tmp_path / "r") == outcome(tmp_path / "other/r") == outcome(tmp_path / "whole/r")
    assert steps_kept(tmp_path / "mirror/r") == [33, 40, 42]


def test_warm_up_stays(tiny_split: Any, tmp_path: Path) -> None:
    """A share of fewer epochs is not made one of more; one that was named and differs is refused."""
    data = tiny_split.folder
    pretrain(wsd(data, tmp_path), console=quiet())
    with pytest.raises(UserError, match=r"other settings \(optim\.warmup_epochs: 1\.0 -> 1\.5\)"):
        pretrain(wsd(data, tmp_path, 10, optim={"warmup_epochs": 1.5}), console=quiet())
    said = Console(file=io.StringIO(), width=300)
    pretrain(wsd(data, tmp_path, 10, optim={"warmup_epochs": 2}), console=said)
    assert "prolonged from 5 to 10 epochs; warm-up stays at 1 epoch" in said.file.getvalue()  # type: ignore[attr-defined]
    pretrain(wsd(data, tmp_path / "whole", 10), console=quiet())
    assert outcome(tmp_path / "r") == outcome(tmp_path / "whole/r")
    # and a third time; the same command, whose warm-up is a share, finds it done
    pretrain(wsd(data, tmp_path, 15, optim={"warmup_epochs": 3}), console=quiet())
    again = Console(file=io.StringIO(), width=300)
    pretrain(wsd(data, tmp_path, 15, optim={"warmup_epochs": 3}), console=again)
    text = again.file.getvalue()  # type: ignore[attr-defined]
    assert "is done: 62 of 62 steps" in text and "this run is prolonged" in text
    with pytest.raises(UserError, match=r"other settings \(optim\.warmup_epochs: 1\.0 -> 2\)"):
        pretrain(wsd(data, tmp_path, 15, optim={"warmup_epochs": 2}), console=quiet())


def test_all_else_is_refused(tiny_split: Any, tmp_path: Path) -> None:
    data = tiny_split.folder
    pretrain(wsd(data, tmp_path), console=quiet())
    before = outcome(tmp_path / "r")
    for given, said in (
        ({"epochs": 4}, r"optim\.epochs: 5\.0 -> 4"),
        ({"epochs": 10, "base_lr": 0.03}, r"other settings \(optim\.base_lr: 0\.02 -> 0\.03\)"),
        ({"epochs": 10, "schedule": "cosine"}, r"optim\.epochs: 5\.0 -> 10; optim\.schedule: wsd -> cosine"),
        ({"decay_epochs": 2}, r"other settings \(optim\.decay_epochs: 0\.0 -> 2\)"),
        # from step 5 on; the checkpoints are of 17 steps and more
        ({"epochs": 10, "decay_epochs": 9}, r"cannot be prolonged: .* which begins at step 5: give another"),
    ):
        optim = {"epochs": 5, **given}
        with pytest.raises(UserError, match=said):
            pretrain(wsd(data, tmp_path, optim=optim), console=quiet())
    assert outcome(tmp_path / "r") == before and status(tmp_path / "r")["step"] == STEPS
    cosine = {"schedule": "cosine"}
    pretrain(wsd(data, tmp_path / "cosine", optim=cosine), console=quiet())
    with pytest.raises(UserError, match=r"other settings \(optim\.epochs: 5\.0 -> 10\)"):
        pretrain(wsd(data, tmp_path / "cosine", 10, optim=cosine), console=quiet())


def test_a_run_that_counts_steps_is_prolonged_by_steps(tiny_split: Any, tmp_path: Path) -> None:
    data = tiny_split.folder
    # settings before the data is known: epochs of the recipe, and warm-up its share
    few, many = ({"epochs": 50, "warmup_epochs": 5, "steps": steps} for steps in (20, 40))
    pretrain(wsd(data, tmp_path, optim=few), console=quiet())
    assert pretrain(wsd(data, tmp_path, optim=many), console=quiet()).steps == 40
    held = read_config(tmp_path / "r").optim
    assert held.steps == 40 and held.warmup_epochs == pytest.approx(20 * 8 / 33 / 10)


def stopped_at(config: Config, step: int, number: int = signal.SIGTERM) -> None:
    """Run until a step, and end it there by a signal."""
    Path(config.run.folder).mkdir(exist_ok=True)
    assert finish(launch(stopping, config, step, number)) == (0 if number == signal.SIGTERM else -number)


def stopping(config: Config, step: int, number: int) -> None:
    real = Step.__call__

    def call(self: Step, batches: Any, lr: float) -> Any:
        if batches[0].position // 8 + 1 == step:
            os.kill(os.getpid(), number)
        return real(self, batches, lr)

    setattr(Step, "__call__", call)  # noqa: B010
    attempt(config)
