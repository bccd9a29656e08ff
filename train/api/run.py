"""`turbomim.Run`: a run folder as Python reads it."""

import html
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from turbomim.pipeline.system.errors import UserError
from turbomim.train.folder import rundir
from turbomim.train.folder.log import Record, read_metrics
from turbomim.train.report.files import json_objects
from turbomim.train.settings.config import Config
from turbomim.train.settings.dictionary import Values, to_dict
from turbomim.train.settings.finetune import FinetuneConfig


class Run(PathLike[str]):
    """A run folder, runs/NAME: what `turbomim.pretrain` returns, or any other by its path.

    It is read anew at each look, so that it can be watched from another process.  Wherever a function takes a
    run's path, it takes a Run.

    Example:
        run = turbomim.Run("runs/mine")
        print(run.status, [record["loss"] for record in run.metrics])

    Args:
        folder: The run's folder.

    Raises:
        UserError: There is no run in the folder.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self._take(folder)
        _config(self.folder)

    @classmethod
    def of_this_call(cls, folder: Path) -> "Run":
        """The run that a call just made; of a rank on another machine there may be no folder to look into."""
        run = cls.__new__(cls)
        run._take(folder)
        return run

    def _take(self, folder: str | PathLike[str]) -> None:
        self._given, self._whole = Path(folder), Path(folder).absolute()

    @property
    def folder(self) -> Path:
        """Where it is: as it was given, or the whole path once the current folder is another."""
        return self._given if self._given.absolute() == self._whole else self._whole

    def __fspath__(self) -> str:
        return str(self.folder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.folder.resolve() == other.folder.resolve()

    def __hash__(self) -> int:
        return hash(self.folder.resolve())

    def __repr__(self) -> str:
        return f"turbomim.Run({str(self.folder)!r}): {self.status or 'not begun'}"

    @property
    def settings(self) -> Values:
        """Every setting, by section and key: `run.settings["optim"]["epochs"]`."""
        return to_dict(_config(self.folder))

    @property
    def status(self) -> str:
        """How it stands: running, done, preempted, failed or died; empty before its first step."""
        status = rundir.read_status(self.folder)
        return "died" if rundir.has_died(status) else str(status.get("status") or "")

    @property
    def step(self) -> int:
        """Optimizer steps taken, up to the last save or end."""
        step = rundir.read_status(self.folder).get("step")
        return step if isinstance(step, int) else 0

    @property
    def metrics(self) -> list[Record]:
        """The records of metrics.jsonl, oldest first, one every `run.log_every` steps.

        Each is a dict with step, epoch, loss (mean over the steps since the record before), heldout_loss
        (only where it was measured), lr, grad_norm, img_per_s, step_ms, data_wait_pct (%), memory_gib.
        """
        return read_metrics(self.folder / "metrics.jsonl")

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """The results of `turbomim.evaluate` that are kept in the run, by their names: knn, linear …

        Raises UserError for a damaged file of one.
        """
        problems = list[str]()
        found = json_objects(self.folder / "eval", problems)
        if problems:
            raise UserError(f"{problems[0]}: evaluate again, or remove the file")
        return found

    def report(self, out: str | PathLike[str] | None = None) -> "Page":
        """Write everything that is known about the run into one HTML page; a notebook shows it.

        Args:
            out: The page to write, .html; report.html in the run's folder if None.

        Raises:
            UserError: The page cannot be written.
        """
        from turbomim.train.report.report import write_report

        return Page(write_report([self.folder], None if out is None else Path(out)).path)

    def show(
        self,
        data: str | PathLike[str] | None = None,
        *,
        images: int = 6,
        out: str | PathLike[str] | None = None,
    ) -> Image.Image:
        """Draw what the model makes of masked photographs: a picture, which a notebook shows.

        Args:
            data: The split to draw from; the run's held-out split, else its training split, if None.
            images: Photographs, a row each, 1 to 64.
            out: The file to write, .png; images/reconstruction-STEP.png in the run's folder if None.

        Raises:
            UserError: The run has no whole checkpoint, or its data is not there.
        """
        from turbomim.train.api.arguments import whole
        from turbomim.train.pictures.reconstruction import draw_reconstructions

        path = draw_reconstructions(
            self.folder,
            data=None if data is None else str(data),
            images=whole("images", images),
            out=None if out is None else Path(out),
        )
        with Image.open(path) as picture:
            picture.load()
        return picture


def _config(folder: Path) -> Config:
    """The settings of a pre-training or a fine-tuning.  Raises UserError if the folder is no run."""
    try:
        return rundir.read_config(folder)
    except rundir.FineTuning:
        return rundir.read_config(folder, FinetuneConfig)


class Page:
    """An HTML page in a file, `path`; a notebook shows it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"page in {self.path}"

    def _repr_html_(self) -> str:
        # a frame of its own, so that the page's style and the notebook's do not meet
        text = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{text}" width="100%" height="600" style="border: 1px solid #ccc"></iframe>'
