"""TensorBoard: event files in the run folder's tb/."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


class TensorBoard:
    """Writes event files for a run that goes on after `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        there = (folder / "tb").is_dir()
        self.last_step = min(step, last_drawn(folder / "tb"))
        # TensorBoard hides what older files hold of this step and later ones
        purged = self.last_step + 1 if there else None
        self._writer = SummaryWriter(str(folder / "tb"), purge_step=purged)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers, and flush: a killed process has written what it logged."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, path: Path) -> None:
        """Write a picture, and flush."""
        self._writer.add_image("reconstruction", np.asarray(Image.open(path)), step, dataformats="HWC")
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """Close the file; TensorBoard does not know of runs that fail."""
        self._writer.close()


def last_drawn(folder: Path) -> int:
    """The last step that event files of a folder have, and that no later one of them hides; 0 for none."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    last = 0
    # their names begin with the time
    for path in sorted(folder.glob("*tfevents*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.HasField("session_log"):
                # written by a start: it hides its step and later ones
                last = min(last, event.step - 1)
            elif event.HasField("summary"):
                last = max(last, event.step)
    return last


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
