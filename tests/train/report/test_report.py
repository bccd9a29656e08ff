"""`turbomim report`: a page that is whole, closed to the world, and true to the files of a run.

Planted bugs, and the test that each makes fail:
- an unclosed tag, an image by its path instead of its bytes: `test_a_full_run_has_every_section`;
- the first log line counted into the rates, held-out and training loss exchanged:
  `test_the_summary_is_that_of_the_log`;
- the recipe's value in place of the run's, unchanged settings listed:
  `test_settings_are_those_that_differ_from_the_recipe`;
- settings that all fine-tunings share listed, or those that one lacks left out:
  `test_settings_of_fine_tunings_stand_side_by_side`.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.calls import call
from tests.train.report.conftest import RECORDS
from tests.train.report.html_page import Page, cells, end_of, page_of, part

from turbomim.benchmarks.stores import weed
from turbomim.pipeline.tars.split import Split
from turbomim.train.report import run as report_run
from turbomim.train.report.report import report_page
from turbomim.train.report.run import read_run, read_runs

SECTIONS = (
    "summary", "settings", "curves", "reconstructions", "method", "evaluation", "analyses", "benchmarks",
    "data", "environment", "bad-samples",
)  # fmt: skip


def test_a_full_run_has_every_section(full: Path, tmp_path: Path) -> None:
    row = {"name": "step: ours", "unit": "us per 1000 images", "device": "cpu"}
    rows = [
        row | {"p20": 1e6, "p50": 2e6, "p80": 4e6},
        row | {"p20": 1e5, "p50": 1e6, "p80": 1e6},
        {"other": 1},
    ]
    (tmp_path / "step.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = report_page(read_runs([full]), tmp_path)
    page = Page(text)
    assert page.faults == [] and text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert [e.attributes["id"] for e in page.root.all("section")] == list(SECTIONS), (
        "no problems, all the rest"
    )
    links = [a.attributes["href"] for a in page.root.all("a")]
    assert links == [f"#{name}" for name in SECTIONS]

    # nothing from elsewhere, nothing that runs; two slashes may well be in a picture's bytes
    without = re.sub('base64,[^"]+', "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|\son\w+=", without)
    foreign = {"script", "link", "iframe", "object", "base", "form"}
    assert {e.name for e in page.root.all()} & foreign == set()
    sources = [img.attributes["src"] or "" for img in page.root.all("img")]
    assert len(sources) == 4, "steps 6, 12 and the last, and the analysis"
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/webp;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).load()

    # for who does not see it, or prints it
    assert all(img.attributes["alt"] for img in page.root.all("img"))
    assert all(
        svg.attributes.get("aria-label") or svg.attributes.get("aria-hidden") for svg in page.root.all("svg")
    )
    for table in page.root.all("table"):
        assert {th.attributes["scope"] for th in table.all("th")} == {"col", "row"}
        assert len({len(row) for row in cells(table)}) == 1, "every row has every column"
    ids = [e.attributes["id"] for e in page.root.all() if "id" in e.attributes]
    assert len(set(ids)) == len(ids)
    named = {e.attributes["aria-labelledby"] for e in page.root.all("section")}
    assert named <= set(ids)
    for word in ("@media print", "prefers-color-scheme: dark", "max-width: 40rem"):
        assert word in text
    assert 'name="viewport"' in text and len(text) < 5e6

    assert ["step: ours", "500", "250 to 1,000"] in cells(part(page, "benchmarks"))
    assert "device cpu" in part(page, "benchmarks").text
    assert "fuse_0" in part(page, "method").text and "Weight of each fused block" in part(page, "method").text
    assert "b/broken.jpg" in part(page, "bad-samples").text
    assert re.search(
        r"[1-9]\d* samples replaced while training; of these named in train.log: ", page.root.text
    )
    assert "Settings: images 7" in part(page, "analyses").text
    assert ["low", "1, 2"] in cells(part(page, "analyses"))
    facts = {row[0]: row[1] for row in cells(part(page, "data"))}
    assert facts["samples"] == "33" and facts["fingerprint"] and facts["store"] == "original"


def test_the_scores_are_those_of_the_file(full: Path) -> None:
    scores = json.loads((full / "eval" / "knn.json").read_text())["scores"]
    rows = cells(part(page_of(full), "evaluation"))
    assert rows[0] == ["features", "20 neighbours", "weighted"]
    assert rows[1:] == [
        [name, *(f"{100 * v:.1f}" for v in values.values())] for name, values in scores.items()
    ]


def test_the_same_files_give_the_same_page(
    full: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outs = [tmp_path / "deep" / "one.html", tmp_path / "two.html"]
    for out in outs:
        assert call(monkeypatch, "report", str(full), "--out", str(out)) == 0
        assert str(out) in capsys.readouterr().out
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert call(monkeypatch, "report", str(full)) == 0
    assert (full / "report.html").read_bytes() == outs[0].read_bytes()
    (full / "report.html").unlink()


def test_the_summary_is_that_of_the_log(bare: Path) -> None:
    page = page_of(bare)
    facts = {row[0]: row[1] for row in cells(part(page, "summary"))}
    assert facts["run"] == "bare" and facts["status"] == "done"
    assert facts["recipe"] == "demo (MAE, gaussian target, radius 17)" and facts["model"].startswith("MAE, ")
    assert "demo (MAE, gaussian target, radius 17); as of" in page.root.text, "the line under the title"
    assert facts["steps"] == "30 of 30" and facts["images seen"] == "240"
    assert facts["training loss"] == "0.8000" and facts["held-out loss"] == "0.9500 (step 20)"
    # without the first line: 80 and 40 img/s for 1 and 2 s; with it: the time
    assert facts["img/s"] == "53" and facts["waiting for data"] == "4.0 %"
    assert facts["time of its steps"] == "0:19" and "MFU" not in facts
    assert facts["most memory of a process"] == "2.5 GiB" and facts["samples replaced"] == "4"
    assert facts["begun"] == "2026-01-02 03:04:05" and facts["last log line"] == "2026-01-02 03:05:06"
    assert "as of 2026-01-02 03:05:06" in page.root.text
    assert page.root.id("evaluation") is None and page.root.id("method") is None, "left out without content"


def test_settings_are_those_that_differ_from_the_recipe(bare: Path, tiny_split: Split) -> None:
    settings = part(page_of(bare), "settings")
    rows = {row[0]: row[1:] for row in cells(settings)}
    assert rows["setting"] == ["bare", "its recipe, demo"]
    assert rows["optim.base_lr"] == ["0.004", "0.008"]
    shown = end_of(tiny_split.folder)
    assert rows["data.path"] == [shown, "(none)"]
    assert set(rows) == {"setting", "optim.base_lr", "data.path"}
    assert [e.text for e in settings.all("span")] == [shown, "0.004"]


def tuning(**settings: Any) -> str:
    """A result of `turbomim eval finetune`."""
    sections = {"run": {"name": "finetune", "folder": "runs/r/eval"}, "optim": settings}
    return json.dumps({"step": 3, "scores": {"fine-tuned": {"top-1": 0.5}}, "settings": sections})


def test_settings_of_fine_tunings_stand_side_by_side(bare: Path) -> None:
    (bare / "eval").mkdir()
    (bare / "eval" / "finetune.json").write_text(tuning(base_lr=5e-4, epochs=100, clip_grad=5.0))
    assert "differ" not in part(page_of(bare), "evaluation").text
    (bare / "eval" / "knn.json").write_text('{"scores": {"trained": {"weighted": 0.25}}}')
    (bare / "eval" / "lower.json").write_text(tuning(base_lr=1e-4, epochs=100))
    evaluation = part(page_of(bare), "evaluation")
    assert "Settings that differ between fine-tunings" in evaluation.text
    rows = cells(evaluation.all("table")[-1])
    assert rows == [
        ["setting", "finetune", "lower"],
        ["optim.base_lr", "0.0005", "0.0001"],
        ["optim.clip_grad", "5", "–"],
    ]


def test_a_fine_tuning_has_its_epochs(bare: Path) -> None:
    """How long it was trained, and how it got on; of another result's folder, or a damaged log, nothing."""
    tree = {**json.loads(tuning(epochs=100)), "epochs": 2.5, "steps": 1250, "test": "t", "test_samples": 7}
    for name in ("finetune", "other"):
        (bare / "eval" / name).mkdir(parents=True)
        (bare / "eval" / f"{name}.json").write_text(json.dumps(tree))
    lines = [json.dumps({"step": n, "epoch": n / 500, "test_top1": n / 2000}) for n in (500, 1250)]
    (bare / "eval" / "finetune" / "metrics.jsonl").write_text("\n".join([*lines, "{broken", ""]))
    evaluation = part(page_of(bare), "evaluation")
    assert "step 3, then trained for 2.5 epochs, 1,250 steps, 7 of t scored" in evaluation.text
    assert "Share of test images right, finetune" in evaluation.text
    assert "Share of test images right, other" not in evaluation.text


def test_several_runs_stand_side_by_side(bare: Path, full: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "bare"
    shutil.copytree(bare, other)
    page = page_of(bare, other, full)
    assert page.faults == []
    assert cells(part(page, "summary"))[0] == ["run", end_of(bare), end_of(other), "r"], (
        "names that tell them apart"
    )
    # another target and other data: a chart of its own, in the colours that runs have elsewhere
    first, second, *_ = part(page, "curves").all("figure")
    names = [item.text for item in first.all("li")]
    assert names[0] == f"{end_of(bare)}, training" and f"{end_of(other)}, held-out" in names
    assert first.all("h3")[0].text == f"Masked-patch loss, {end_of(bare)}, {end_of(other)}"
    assert second.all("h3")[0].text == "Masked-patch loss, r" and "r, training" not in names
    assert [item.text for item in second.all("li")][:2] == ["r, training", "r, held-out"]
    assert any("c2" in str(line.attributes["class"]) for line in second.all("polyline"))
    warnings = [item.text for item in part(page, "summary").all("li")]
    assert any(
        f"training losses of {end_of(bare)} and r are not comparable: other targets" in w for w in warnings
    )
    # another global batch: steps are not the same
    assert "images seen" in first.text and "optimizer step" not in first.text
    alike = page_of(bare, other)
    assert "optimizer step" in part(alike, "curves").text
    assert len([h for h in part(alike, "curves").all("h3") if "Masked-patch loss" in h.text]) == 1
    assert "not comparable" not in alike.root.text and "charts of their own" not in alike.root.text


def test_scores_while_a_run_trained_are_drawn(bare: Path, tmp_path: Path) -> None:
    """A chart a run with the baselines; none without scores.  Planted, and seen to fail: no baselines."""
    scores = [
        {"eval/knn_top1": 0.1 * n, "eval/knn_top1_random": 0.25, "eval/knn_top1_pixels": 0.3}
        for n in range(3)
    ]
    lines = [json.dumps(record | score) + "\n" for record, score in zip(RECORDS, scores, strict=True)]
    other = tmp_path / "other"
    shutil.copytree(bare, other)
    (bare / "metrics.jsonl").write_text("".join(lines))
    curves = part(page_of(bare), "curves").all("figure")
    (chart,) = [figure for figure in curves if "neighbours" in figure.text]
    assert [item.text for item in chart.all("li")] == ["trained", "random weights", "raw pixels"]
    said = chart.all("svg")[0].attributes["aria-label"]
    assert said is not None and "trained from 0 to 0.2; random weights from 0.25 to 0.25" in said
    both = part(page_of(bare, other), "curves").text
    assert "right, bare" in both and "right, other" not in both


def test_a_run_that_just_began_has_a_report(bare: Path) -> None:
    for name in ("metrics.jsonl", "train.log", "status.json", "env.json"):
        (bare / name).unlink()
    page = page_of(bare)
    assert page.faults == [] and page.root.id("curves") is None and page.root.id("problems") is None
    facts = {row[0]: row[1] for row in cells(part(page, "summary"))}
    assert set(facts) == {"run", "recipe", "model", "target"} and facts["run"] == "bare"


def test_a_store_that_is_down_is_not_waited_for(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted, and seen to fail: the patience of a run."""
    for name, value in weed.environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(report_run, "PATIENCE", 0.1)
    text = (bare / "config.yaml").read_text()
    (bare / "config.yaml").write_text(re.sub(r"(?m)^(\s+path:).*$", r"\1 s3://a/b", text))
    begun = time.monotonic()
    ((problem,),) = (facts.problems for facts in read_runs([bare]))
    assert problem.startswith("cannot read 's3://a/b/manifest.json': nobody listens there")
    assert time.monotonic() - begun < 9 and capsys.readouterr().err == ""


def test_the_recipe_is_that_of_the_settings_and_before_these_had_it_of_the_command(bare: Path) -> None:
    (bare / "env.json").write_text(json.dumps({"command": ["turbomim", "pretrain", "mae-vit-b16-800e"]}))
    assert read_run(bare, "x").recipe == "demo"
    text = (bare / "config.yaml").read_text()
    (bare / "config.yaml").write_text(text.replace("  recipe: demo\n", ""))
    for command, name in (
        (["turbomim", "demo"], "demo"),
        (["turbomim", "pretrain", "mae-vit-b16-800e", "--run.name", "demo"], "mae-vit-b16-800e"),
        (["turbomim", "import", "x.pth", "--recipe=mae-vit-l16-800e"], "mae-vit-l16-800e"),
        (["demo", "pretrain", "of-another-version"], None),
        ("demo", None),
    ):
        (bare / "env.json").write_text(json.dumps({"command": command}))
        assert read_run(bare, "x").recipe == name
    assert "defaults (no recipe is known)" in part(page_of(bare), "settings").text
