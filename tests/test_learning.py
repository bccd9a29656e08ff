"""The learning benchmark's parts: the time that a run gets, the textbook opponent, the table and the plot.

Planted, each seen to fail the test named: the start not taken off the time (`test_a_run_ends_with_its_time`);
the textbook's model returned as it was at the start, or trained on one batch over and over
(`test_the_textbook_learns_from_the_stream_within_its_time`); scores of the random encoder in the trained
one's row (`test_table_and_plot_show_every_score`).
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from turbomim.benchmarks import learning_textbook
from turbomim.benchmarks.learning import MEASURED, PIXELS, RANDOM, TRAINED, Speed, plot, table
from turbomim.benchmarks.learning_textbook import train_textbook
from turbomim.benchmarks.textbook_mae import TextbookMAE, normalised
from turbomim.pipeline.errors import UserError
from turbomim.pipeline.shards import Split
from turbomim.train.config import Config, DataConfig, ModelConfig, OptimConfig
from turbomim.train.models.mae import MAE


def small(split: Split, target: str = "raw") -> Config:
    return Config(
        data=DataConfig(path=str(split.path), size=32),
        model=ModelConfig(
            patch=8, width=32, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2,
            target=target,  # type: ignore[arg-type]
            radius=6.0,
        ),
        optim=OptimConfig(epochs=10, warmup_epochs=1, base_lr=0.1, global_batch=8),
    )  # fmt: skip


def test_a_run_ends_with_its_time() -> None:
    """100 seconds, 20 of them to start: 80 x 50 images of 1,000."""
    assert Speed(around_s=20, img_per_s=50).epochs(100, 1000) == pytest.approx(4.0)


def test_the_textbook_learns_from_the_stream_within_its_time(
    tiny_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def watched(images_BHWC: torch.Tensor) -> torch.Tensor:
        seen.append(images_BHWC.clone())
        return normalised(images_BHWC)

    monkeypatch.setattr(learning_textbook, "normalised", watched)
    config = small(tiny_split)
    # begin, warm, 20 timed steps of 0.1 s: 3 of 7 seconds are gone, 40 steps fit into the rest
    clock = iter((0.0, 1.0, 3.0, 3.0))
    monkeypatch.setattr(learning_textbook, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    model, losses = train_textbook(config, seconds=7)
    assert losses[-1][0] == 40 * 8
    run = seen[-40:]
    assert len(seen) == 3 + 20 + 40 and not torch.equal(run[0], run[1])
    assert losses[-1][1] < losses[0][1]
    start = MAE(config).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, start[name]) == ("pos_embed" in name), name


def test_the_textbook_and_ours_hold_the_same_weights(tiny_split: Split) -> None:
    config = small(tiny_split)
    TextbookMAE(config).load_state_dict(MAE(config).state_dict())
    with pytest.raises(UserError, match="the textbook MAE predicts raw pixels only"):
        train_textbook(small(tiny_split, "gaussian"), seconds=1)


def test_table_and_plot_show_every_score(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        {
            "name": name,
            "images": 1000 * (place + 1),
            "minutes": 1.5,
            "losses": [[100, 1.0], [1000, 0.5]],
            "scores": {
                feature: {
                    measure: (10 * row + column + 5 * place) / 100 for column, measure in enumerate(MEASURED)
                }
                for row, feature in enumerate((PIXELS, RANDOM, TRAINED), start=1)
            },
        }
        for place, name in enumerate(("one", "two"))
    ]
    text = table(lines)
    assert "| raw pixels |  |  | 10.0 | 11.0 | 12.0 |" in text
    assert "| random weights |  |  | 20.0 | 21.0 | 22.0 |" in text
    assert "| one | 1,000 | 1.5 | 30.0 | 31.0 | 32.0 |" in text
    assert "| two | 2,000 | 1.5 | 35.0 | 36.0 | 37.0 |" in text
    plot(lines, tmp_path / "new" / "learning.png")
    assert Image.open(tmp_path / "new" / "learning.png").width > 1000
