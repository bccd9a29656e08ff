"""After a kill or a stop, metrics.jsonl is that of the undisturbed run, whenever lines and checkpoints come.

Planted, each seen to fail: a window that begins anew with the process, a line of a stop that stays, samples
that were read for a step that was not taken counted as replaced.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.runs import attempt, config_for, finish, launch, launch_ranks, ranked, records
from tests.train.loop.test_data import spoil

from turbomim.pipeline.tars.split import Split, open_split
from turbomim.train.folder.log import Record
from turbomim.train.loop.step import Step
from turbomim.train.settings.config import Config

# what is measured in seconds or of a process, and is another in every run
MEASURED = {
    "img_per_s", "img_per_s_per_gpu", "data_wait_pct", "read_wait_pct", "decode_wait_pct", "augment_wait_pct",
    "step_ms", "mfu", "memory_gib", "eta_s",
    # whether the line holds a process's first step
    "first",
}  # fmt: skip
BAD = range(0, 33, 4)
BATCH = 8
# of these the loss is not finite
SKIPPED = (2, 6)


@pytest.fixture(scope="module")
def bad_split(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of the photographs cannot be decoded."""
    folder = Path(shutil.copytree(tiny_split.folder, tmp_path_factory.mktemp("bad") / "split"))
    spoil(open_split(folder), BAD, "zeros")
    return folder


def configured(data: Path, runs: Path, log_every: int, save_every: int) -> Config:
    run_settings: dict[str, Any] = {
        "log_every": log_every,
        "save_every": save_every,
        "save_in_background": False,
    }
    data_settings: dict[str, Any] = {"max_bad_share": 1.0}
    scores: dict[str, Any] = {}
    if log_every == 4:
        # beside the loss whatever else a line may have
        data_settings["heldout"] = str(data)
        run_settings["eval_every"] = 4
        scores = {"every_epochs": 1.0, "samples": 33}
    optim = {"epochs": 3.0, "micro_batch": 2}
    return config_for(data, runs, data=data_settings, optim=optim, run=run_settings, eval=scores)


def ended(config: Config, at: int, number: int, *rank: int) -> None:
    """An attempt, as one rank of several or alone, that sends itself a signal in step `at`, if that comes."""
    real = Step.__call__

    def step(self: Step, batches: Any, lr: float) -> Any:
        count = batches[0].position // BATCH + 1
        if count == at:
            os.kill(os.getpid(), number)
        loss, norm, skipped = real(self, batches, lr)
        # what a loss that is not finite does to the log, and to a row of skipped steps
        return loss, norm, skipped + (count in SKIPPED)

    setattr(Step, "__call__", step)  # noqa: B010
    functools.partial(ranked, config)(*rank) if rank else attempt(config)


def lines(runs: Path) -> list[Record]:
    return [{name: r[name] for name in r if name not in MEASURED} for r in records(runs / "r")]


def go(config: Config, ranks: int, at: int = 0, number: int = 0) -> list[int | None]:
    Path(config.run.folder).mkdir(exist_ok=True)
    if ranks == 1:
        return [finish(launch(ended, config, at, number))]
    return [finish(process) for process in launch_ranks(ended, ranks, config, at, number)]


@pytest.fixture(scope="module")
def undisturbed(bad_split: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The lines of a run that nothing befell, by log_every."""

    @functools.cache
    def of(log_every: int, ranks: int) -> list[Record]:
        runs = tmp_path_factory.mktemp("whole")
        assert go(configured(bad_split, runs, log_every, 100), ranks) == [0] * ranks
        return lines(runs)

    return of


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize(
    ("log_every", "save_every", "at", "ranks"),
    [(1, 3, 5, 1), (5, 3, 5, 1), (4, 3, 8, 1), (3, 4, 9, 1), (100, 5, 7, 1), (5, 3, 8, 2)],
)
def test_the_log_is_that_of_the_undisturbed_run(
    bad_split: Path, tmp_path: Path, undisturbed: Any, log_every: int, save_every: int, at: int, ranks: int,
    number: int,
) -> None:  # fmt: skip
    config = configured(bad_split, tmp_path, log_every, save_every)
    code = -number if number == signal.SIGKILL else 0
    assert go(config, ranks, at, number) == [code] * ranks
    assert go(config, ranks) == [0] * ranks
    found, wanted = lines(tmp_path), undisturbed(log_every, ranks)
    assert wanted[-1]["replaced_total"] > 20 and wanted[-1]["skipped_total"] == len(SKIPPED)
    assert (log_every == 4) == ("eval/knn_top1" in wanted[-1])
    assert found == wanted
