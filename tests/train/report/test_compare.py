"""`turbomim compare`: the table is the files', and what must not be compared is said.

Planted bugs, and the test that each makes fail:
- a setting that decides the loss left out of DECIDES_LOSS: `test_losses_that_cannot_be_compared_are_named`;
- the data's fingerprints not looked at: `test_other_data_and_seeds_are_named`;
- a fact left out of DECIDES_SCORE: `test_scores_of_other_images_are_named`;
- runs of other targets or data in one chart, or comparable ones in two:
  `test_losses_share_a_chart_where_they_can_be_compared`;
- every setting listed, or the first run's value in each column, those of fine-tunings left out:
  `test_runs_stand_side_by_side`;
- steps in place of images on the axis: `test_the_plot_is_over_images_seen`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tests.calls import assert_one_line, call

from turbomim.pipeline.places.folder import Folder
from turbomim.pipeline.tars.manifest import load_manifest
from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import rundir
from turbomim.train.recipes.table import recipe
from turbomim.train.report.comparable import comparable_groups, find_incomparable
from turbomim.train.report.compare import comparison_tables, plot_losses
from turbomim.train.report.run import RunFacts
from turbomim.train.settings.config import Config


def config_of(**sections: dict[str, Any]) -> Config:
    base = recipe("demo")
    return dataclasses.replace(
        base,
        **{name: dataclasses.replace(getattr(base, name), **values) for name, values in sections.items()},
    )


def facts(label: str, **sections: dict[str, Any]) -> RunFacts:
    """A run with two records of both losses."""
    records = [{"step": n, "position": 32 * n, "loss": 1.0 / n, "heldout_loss": 1.1 / n} for n in (1.0, 2.0)]
    return RunFacts(path=Path(label), label=label, config=config_of(**sections), records=records)


def write_run(
    folder: Path, losses: list[float], scores: dict[str, Any] | None = None, **sections: Any
) -> Path:
    """A run folder as training leaves it, but for its checkpoints."""
    folder.mkdir()
    rundir.write_settings(folder, config_of(**sections), torch.device("cpu"), 1)
    rundir.set_status(folder, "done", len(losses), 32 * len(losses))
    record = {"steps": len(losses), "img_per_s": 50.0, "data_wait_pct": 1.2, "step_ms": 10.0, "window": 1}
    lines = [
        json.dumps({"step": n, "position": 32 * n, "loss": loss, **record})
        for n, loss in enumerate(losses, 1)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if scores:
        (folder / "eval").mkdir()
        (folder / "eval" / "knn.json").write_text(json.dumps({"step": 1, "scores": scores}))
    return folder


def test_runs_stand_side_by_side(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"path": str(tiny_split.folder)}
    scores = {"trained: [b]token[/b]": {"weighted": 0.4321}}
    one = write_run(tmp_path / "one", [1.0, 0.75], scores, data=data)
    for name, rate in (("finetune", 5e-4), ("lower", 1e-4)):
        tuned = {"optim": {"base_lr": rate, "epochs": 100}, "run": {"name": name}}
        result = {"scores": {"fine-tuned": {"top-1": 0.5}}, "settings": tuned}
        (one / "eval" / f"{name}.json").write_text(json.dumps(result))
    two = write_run(tmp_path / "two", [1.0, 0.5, 0.25], data=data, optim={"base_lr": 0.002}, run={"seed": 3})
    out = tmp_path / "plots" / "p.png"
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, "compare", str(one), str(two), "--out", str(out)) == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    # the last of a name: what differs between the fine-tunings comes after what differs between the runs
    *_, tunings = (number for number, row in enumerate(rows) if row and row[0] == "optim.base_lr")
    assert rows.pop(tunings) == ["optim.base_lr", "0.0005", "0.0001"]
    found = {row[0]: row[1:] for row in rows if row}
    recipe = "demo (MAE, gaussian target, radius 17)"
    assert found["recipe"] == [recipe, recipe] and found["status"] == ["done", "done"]
    assert found["images seen"] == ["64", "96"] and found["training loss"] == ["0.7500", "0.2500"]
    assert found["img/s"] == ["50", "50"] and found["waiting for data"] == ["1.2 %", "1.2 %"]
    assert found["optim.base_lr"] == ["0.008", "0.002"] and found["run.seed"] == ["0", "3"]
    assert found["knn, trained: [b]token[/b], weighted"] == ["43.2", "–"], "brackets are no markup"
    assert not {"data.path", "optim.epochs", "run.name"} & set(found), "the same in both, or a name"
    assert Image.open(out).size == (1200, 750)


@pytest.mark.parametrize(
    "names", [["pixmim-vit-b16-300e"] * 4, ["pixmim-vit-b16-300e", "mae-vit-b16-800e"] * 2]
)
def test_words_are_whole_on_a_narrow_terminal(names: list[str]) -> None:
    """Planted, and seen to fail: all runs in one table of any width; widths counted run by run, where rich
    makes wide columns alike.
    """
    runs = [
        dataclasses.replace(facts(name), recipe=recipe) for name, recipe in zip("abcd", names, strict=True)
    ]
    console = Console(width=80, file=io.StringIO())
    tables = comparison_tables(runs, console.width)
    assert [len(table.columns) for table in tables] == [3, 3]
    for table in tables:
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert (
        all(text.count(name) == names.count(name) for name in names)
        and max(map(len, text.splitlines())) <= 80
    )


# left at the defaults, as SimMIM has none
NO_DECODER = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16}


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"model": {"target": "raw"}}, "other targets"),
        ({"model": {"radius": 20.0}}, "other targets"),
        ({"model": {"norm_pix": False}}, "other normalisation of the targets"),
        ({"model": {"patch": 16}}, "other patches, other masks"),
        ({"data": {"size": 48}}, "other patches"),
        ({"model": {"mask_ratio": 0.5}}, "other masks"),
        ({"model": {"mask_unit": 2}}, "other masks"),
        ({"model": {"mask": "block"}}, "other masks"),
        ({"data": {"crop": "rrc"}}, "other crops"),
        ({"data": {"interpolation": "bilinear"}}, "other crops"),
        ({"model": {"method": "simmim", **NO_DECODER}}, "another kind of loss (L1 on pixels, or squares)"),
    ],
)
def test_losses_that_cannot_be_compared_are_named(sections: dict[str, dict[str, Any]], reason: str) -> None:
    assert find_incomparable([facts("a"), facts("b", **sections)]) == [
        f"{kind} losses of a and b are not comparable: {reason}" for kind in ("training", "held-out")
    ]


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"optim": {"base_lr": 1.0, "global_batch": 64}},
        {"model": {"width": 256, "method": "mff", "fuse": "2,5"}},
        {"data": {"threads": 3}},
    ],
)
def test_losses_that_can_be_compared_are_left_alone(sections: dict[str, dict[str, Any]]) -> None:
    assert find_incomparable([facts("a"), facts("b", **sections)]) == []
    raw, other = facts("a", model={"target": "raw"}), facts("b", model={"target": "raw", "radius": 3.0})
    assert find_incomparable([raw, other]) == [], "a radius that is not used"


def test_other_data_and_seeds_are_named(tiny_split: Split) -> None:
    manifest = load_manifest(Folder(tiny_split.folder))
    other = dataclasses.replace(manifest, fingerprint="0" * 64)

    def run(label: str, **more: Any) -> RunFacts:
        return dataclasses.replace(facts(label), **more)

    same = {"training": (Path("x"), manifest), "held-out": (Path("x"), manifest)}
    assert find_incomparable([run("a", splits=same), run("b", splits=same)]) == []
    prints = f"other data (fingerprints {manifest.fingerprint[:12]} and 000000000000)"
    changed = same | {"training": (Path("x"), other)}
    line = f"training losses of a and b are not comparable: {prints}"
    assert find_incomparable([run("a", splits=same), run("b", splits=changed)]) == [line]
    # what the checkpoint says counts more than what lies there now
    assert find_incomparable([run("a", splits=same), run("b", splits=same, trained_on="0" * 64)]) == [line]
    held = same | {"held-out": (Path("x"), other)}
    assert find_incomparable([run("a", splits=same), run("b", splits=held)]) == [
        f"held-out losses of a and b are not comparable: {prints}"
    ]
    gone = {"training": (Path("y"), None)}
    (line,) = find_incomparable([run("a", splits=same), run("b", splits=gone)])
    assert "perhaps other data (x and y; a fingerprint is not known)" in line
    no_losses = [run("a", records=[], splits=same), run("b", records=[], splits=changed)]
    assert find_incomparable(no_losses) == [], "nothing is compared"
    (line,) = find_incomparable([facts("a"), facts("b", run={"seed": 5})])
    assert line == "a and b have other seeds (0 and 5): initial weights, order, crops and masks differ"


def test_losses_share_a_chart_where_they_can_be_compared(tiny_split: Split) -> None:
    manifest = load_manifest(Folder(tiny_split.folder))
    a, c = facts("a"), facts("c", optim={"base_lr": 1.0}, run={"seed": 7})
    b, d = facts("b", model={"target": "raw"}), facts("d", model={"target": "raw"})
    elsewhere = dataclasses.replace(a, label="e", trained_on="0" * 64)
    known = dataclasses.replace(a, label="f", trained_on="1" * 64)
    unseen = dataclasses.replace(a, label="g", splits={"training": ("y", None)})
    here = dataclasses.replace(a, label="h", splits={"training": ("x", manifest)})
    settings_lost = dataclasses.replace(a, label="i", config=None)
    no_losses = dataclasses.replace(b, label="j", records=[])

    def labels(*runs: RunFacts) -> list[list[str]]:
        return [[run.label for run in group] for group in comparable_groups(runs)]

    assert labels(a, b, c, d) == [["a", "c"], ["b", "d"]]
    assert labels(elsewhere, known) == [["e"], ["f"]]
    assert labels(a, elsewhere, known) == [["a", "e"], ["f"]], "compared with all of a group"
    assert labels(here, unseen) == [["h", "g"]], "perhaps other data"
    assert labels(a, settings_lost, c) == [["a", "c"], ["i"]]
    (line, _) = find_incomparable([a, settings_lost])
    assert line == "training losses of a and i are not comparable: the settings of i are not known"
    assert labels(a, no_losses) == [["a", "j"]], "nothing is compared"


def test_scores_of_other_images_are_named() -> None:
    def run(label: str, **measured: Any) -> RunFacts:
        tree = {"train": "s", "train_samples": 60, "test": "t", "test_samples": 20, "size": 32} | measured
        return dataclasses.replace(facts(label), evals={"knn": tree, f"only-{label}": measured})

    assert find_incomparable([run("a"), run("b", step=7)]) == []
    assert find_incomparable([run("a"), run("b", test="u", test_samples=10_000, size=48)]) == [
        "knn of a and b was not measured on the same: test t and u, test_samples 20 and 10000, size 32 and 48"
    ]


def test_the_plot_is_over_images_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and legend as matplotlib has them; names that it would read as formulas or hide are names."""
    drawn: list[Any] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, file, format: drawn.append(self.axes[0])
    )
    plot_losses([facts("$a"), facts("_b")], tmp_path / "p.png")
    (axes,) = drawn
    held = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_xdata().tolist() for line in held] == [[32.0, 64.0]] * 2
    assert np.allclose(held[0].get_ydata(), [1.1, 0.55])
    assert len(axes.lines) == 6 and axes.get_xlabel() == "images seen"
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [r"\$a", r"\$a, held-out", "\u200b_b", "\u200b_b, held-out"]
    assert axes.get_ylim()[1] >= 1.1


def test_losses_that_cannot_be_compared_have_axes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, file, format: drawn.extend(self.axes)
    )
    plot_losses([facts("a"), facts("b", model={"target": "raw"}), facts("c")], tmp_path / "p.png")
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in drawn]
    assert legends == [["a", "a, held-out", "c", "c, held-out"], ["b", "b, held-out"]]
    colours = [{line.get_color() for line in axes.lines} for axes in drawn]
    assert list(map(len, colours)) == [2, 1] and not colours[0] & colours[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["compare"], 2, "compare needs two or more run folders"),
        (["compare", "RUN"], 2, "compare needs two or more run folders"),
        (["compare", "RUN", "/nowhere"], 1, "/nowhere is not a run"),
        (["compare", "RUN", "RUN"], 2, "is given more than once"),
        (
            ["compare", "RUN", "EMPTY", "--out", "x.jpg"],
            2,
            "--out x.jpg: must be a file whose name ends in .png",
        ),
        (
            ["compare", "EMPTY", "EMPTY2"],
            1,
            "nothing to draw in compare.png: none of the runs has logged a loss",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = {
        name: str(write_run(tmp_path / name, losses))
        for name, losses in (("RUN", [1.0]), ("EMPTY", []), ("EMPTY2", []))
    }
    assert call(monkeypatch, *(runs.get(word, word) for word in words)) == code
    assert_one_line(capsys, message)
    assert not (tmp_path / "compare.png").exists()


def test_without_matplotlib_the_tables_are_printed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(write_run(tmp_path / name, [1.0])) for name in "ab"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert call(monkeypatch, "compare", *runs) == 1
    said = capsys.readouterr()
    assert "1.0000" in said.out and 'pip install "turbomim[plots]"' in said.err


def test_a_damaged_run_is_compared_as_far_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (write_run(tmp_path / name, [1.0, 0.5]) for name in "ab")
    (one / "config.yaml").write_text("data: [")
    (two / "status.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "compare", str(one), str(two)) == 0
    out = capsys.readouterr().out
    assert "config.yaml is not YAML" in out and "status.json cannot be read" in out and "0.5000" in out
