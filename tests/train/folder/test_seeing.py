"""What a user sees: the panel at any width, plain lines in a pipe, pictures.

Planted bugs, and the test that each makes fail:
- a panel whose lines end within parts, or are cut: `test_the_panel_loses_nothing`;
- a picture of other photographs each time, or one that changes the weights:
  `test_pictures_of_fixed_photographs_change_only_where_the_model_predicts`.
"""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.runs import config_for, quiet

from turbomim.pipeline.tars.split import Split
from turbomim.train.folder.log import RunLog, line_of, parts_of, read_metrics
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.settings.config import Config
from turbomim.train.terminal.panel import run_panel

RECORD: dict[str, Any] = {
    "step": 104200, "steps": 250228, "epoch": 333.2, "loss": 0.4231, "lr": 2.4e-3, "grad_norm": 0.31,
    "img_per_s": 42712.0, "img_per_s_per_gpu": 5339.0, "data_wait_pct": 0.4, "mfu": 0.401,
    "memory_gib": 31.2, "heldout_loss": 0.431, "skipped": 2, "replaced": 1, "replaced_total": 3,
    "eta_s": 45667.0, "step_ms": 96.0,
}  # fmt: skip


@pytest.mark.parametrize("width", [120, 80, 40, 20])
def test_the_panel_loses_nothing(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(run_panel("runs/a-run-with-a-long-name", 104200, 250228, parts_of(RECORD)))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    inner = [line.strip("│╭╰╮╯─━╸╺ ") for line in lines]
    shown = " ".join(" ".join(inner).split())
    for name, value in [("step", "104200/250228"), ("done", "41.6%"), *parts_of(RECORD)]:
        part = f"{name} {value}"
        assert part in shown, part
        assert len(part) > width - 4 or any(part in line for line in inner), f"{part} is torn apart"
    if width >= 80:
        assert len(lines) <= 6


def test_a_line_says_everything_once() -> None:
    line = line_of(RECORD)
    assert "\n" not in line
    for text in (
        "step 104200/250228", "epoch 333.20", "loss 0.4231", "lr 2.40e-03", "grad 0.31",
        "img/s 42712 (5339/GPU)", "wait 0.4%", "mfu 40.1%", "mem 31.2GiB", "held-out 0.4310",
        "skipped 2", "replaced 3", "eta 12:41:07",
    ):  # fmt: skip
        assert line.count(text) == 1, text
    alone = line_of(RECORD | {"img_per_s": 5339.0, "mfu": None, "skipped": 0, "heldout_loss": None})
    assert "/GPU" not in alone and "mfu" not in alone and "skipped" not in alone and "held-out" not in alone


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_a_terminal_has_the_panel_and_a_pipe_the_lines(tmp_path: Path, terminal: bool) -> None:
    out = io.StringIO()
    log = RunLog(
        tmp_path, Console(file=out, width=80, force_terminal=terminal, color_system=None), config=Config()
    )
    with log.open(0):
        with log.bar(0, 250228):
            log.record(RECORD)
            log.say("a note in between")
        log.say("the end")
    shown = out.getvalue()
    assert ("╭" in shown) == terminal and (line_of(RECORD) in shown) != terminal
    assert "a note in between" in shown
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [line_of(RECORD), "a note in between", "the end"]
    assert read_metrics(tmp_path / "metrics.jsonl") == [RECORD]


def tiles(path: Path, columns: int, rows: int, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(rows, columns, side, side, 3): the pictures of a grid, found by their whole-factor enlargement."""
    sheet = np.asarray(Image.open(path))
    factor, gap, margin, head = round(224 / side), 10, 28, 29
    tile = side * factor
    height = (tile + gap) * rows
    top = margin + head
    grid = sheet[top : top + height, margin:]
    return np.stack(
        [
            np.stack(
                [
                    grid[r * (tile + gap) :, c * (tile + gap) :][:tile:factor, :tile:factor]
                    for c in range(columns)
                ]
            )
            for r in range(rows)
        ]
    )


def test_pictures_of_fixed_photographs_change_only_where_the_model_predicts(
    tiny_split: Split, tmp_path: Path
) -> None:
    plain = config_for(tiny_split.folder, tmp_path / "plain", optim={"epochs": 3})
    drawn = config_for(tiny_split.folder, tmp_path / "drawn", optim={"epochs": 3}, run={"picture_every": 4})
    for config in (plain, drawn):
        pretrain(config, console=quiet())
    losses = [
        [r["loss"] for r in read_metrics(tmp_path / name / "r" / "metrics.jsonl")]
        for name in ("plain", "drawn")
    ]
    assert losses[0] == losses[1], "a picture changed the training"
    folder = tmp_path / "drawn" / "r" / "images"
    assert [path.name for path in sorted(folder.iterdir())] == [
        f"reconstruction-{step:08d}.png" for step in (4, 8, 12, 13)
    ]
    sheets = [tiles(path, columns=5, rows=6, side=32) for path in sorted(folder.iterdir())]
    for one, other in itertools.pairwise(sheets):
        photograph, masked, reconstruction, _, target = range(5)
        for column in (photograph, masked, target):
            assert np.array_equal(one[:, column], other[:, column]), column
        changed = (one[:, reconstruction] != other[:, reconstruction]).any(-1)
        hidden = (one[:, photograph] != one[:, masked]).any(-1)
        assert changed.any() and not (changed & ~hidden).any(), "visible patches stay as they are"
