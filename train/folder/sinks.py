"""Where scalars and pictures of a run go besides its files: TensorBoard and Weights & Biases, both extras."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from turbomim.pipeline.system.errors import UserError
from turbomim.train.settings.config import Config, RunConfig
from turbomim.train.settings.dictionary import to_dict

# what of a log record is drawn, and under which name
SCALARS = {
    "loss": "loss/train",
    "heldout_loss": "loss/heldout",
    "test_loss": "loss/test",
    "test_top1": "eval/finetune_top1",
    "test_top5": "eval/finetune_top5",
    "lr": "optim/lr",
    "grad_norm": "optim/grad_norm",
    "skipped": "optim/skipped_steps",
    "img_per_s": "throughput/img_per_s",
    "img_per_s_per_gpu": "throughput/device/img_per_s",
    "mfu": "throughput/device/mfu",
    "data_wait_pct": "time/data_wait_pct",
    "step_ms": "time/step_ms",
    "memory_gib": "memory/peak_gib",
    "epoch": "data/epoch",
    "replaced_total": "data/replaced",
}
# what the names of a method's own numbers begin with
OF_MODEL = "model/"
# and those of the scores of features
OF_EVAL = "eval/"


class Sink(Protocol):
    """Takes what a run has to show."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of a step by name."""

    def picture(self, step: int, path: Path) -> None:
        """A PNG file of a step."""


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log record under the names they are drawn by; missing and null ones are left out."""
    # a method's own numbers, and scores, are drawn by the names that they have
    names = SCALARS | {key: key for key in record if key.startswith((OF_MODEL, OF_EVAL))}
    return {name: float(record[key]) for key, name in names.items() if record.get(key) is not None}


def check_sinks(run: RunConfig) -> None:
    """Raise UserError if a package that the settings need is not installed."""
    for wanted, setting, package in (
        (run.tensorboard, "run.tensorboard = true", "tensorboard"),
        (run.wandb, f"run.wandb = {run.wandb}", "wandb"),
    ):
        if wanted and importlib.util.find_spec(package) is None:
            raise UserError(f'{setting} needs {package}, not installed: pip install "turbomim[{package}]"')


@contextmanager
def open_sinks(
    config: Config, folder: Path, step: int, kept: Sequence[Mapping[str, Any]]
) -> Iterator[list[Sink]]:
    """The sinks that the settings name, for a run that goes on after `step`.

    kept: the log records up to there.  What a killed run sent after that step is taken back.
    """
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []
        if config.run.tensorboard:
            sinks.append(stack.enter_context(_tensorboard(folder, step)))
        if config.run.wandb:
            sinks.append(stack.enter_context(_wandb(config, folder, step, kept)))
        yield sinks


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, path: Path) -> None:
        self._writer.add_image("reconstruction", np.asarray(Image.open(path)), step, dataformats="HWC")
        self._writer.flush()


@contextmanager
def _tensorboard(folder: Path, step: int) -> Iterator[_TensorBoard]:
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard hides what older files hold of this step and later ones
    with SummaryWriter(str(folder / "tb"), purge_step=step + 1) as writer:
        yield _TensorBoard(writer)


def tensorboard_scores(run: Path, step: int, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Add a run's scores of `turbomim eval` to its TensorBoard, as `eval/MEASURE/FEATURE` of a step.

    Nothing for a run without a tb/ folder, or where tensorboard is not installed.  They are in tb/eval, shown
    as a curve of that name: after a second writer in tb/ itself, TensorBoard would not look again at the file
    of a run that goes on.
    """
    if not (run / "tb").is_dir() or importlib.util.find_spec("tensorboard") is None:
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "tb" / "eval")) as writer:
        for feature, measures in scores.items():
            for measure, value in measures.items():
                writer.add_scalar(f"eval/{measure}/{feature}", value, step)


class _WeightsAndBiases:
    def __init__(self, wandb: Any, run: Any) -> None:
        self._wandb, self._run = wandb, run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"reconstruction": self._wandb.Image(str(path))}, step=step)


@contextmanager
def _wandb(
    config: Config, folder: Path, step: int, kept: Sequence[Mapping[str, Any]]
) -> Iterator[_WeightsAndBiases]:
    wandb = importlib.import_module("wandb")
    # nothing can be taken back from a run there: each start is a new one of the same group, and begins with
    # what was kept, so that the newest has the whole curve
    name = config.run.name if step == 0 else f"{config.run.name}-from-{step}"
    with wandb.init(
        project=config.run.wandb, group=config.run.name, name=name, dir=str(folder), config=to_dict(config)
    ) as run:
        sink = _WeightsAndBiases(wandb, run)
        for record in kept:
            sink.scalars(record["step"], scalars_of(record))
        yield sink
