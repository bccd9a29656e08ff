"""A report of odd and damaged files: they are text, never markup, and what cannot be read is one line.

Planted bugs, and the test that each makes fail:
- text of files not escaped in `tag`, or not in attributes, control characters kept:
  `test_names_from_files_are_text_and_never_markup`;
- a damaged file that ends the report or goes without a word: `test_a_damaged_file_is_one_line_in_the_report`;
- paths taken from here instead of from where the run began: `test_data_are_found_from_another_folder`;
- fingerprints not compared: `test_data_of_another_fingerprint_are_said_to_be`;
- absolute paths in YAML, in a command, in a sentence, in quotes, or with a space, left whole:
  `test_no_page_says_where_its_author_keeps_things`.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.calls import call
from tests.train.report.conftest import RECORDS
from tests.train.report.html_page import Page, cells, end_of, page_of, part
from tests.train.report.test_report import SECTIONS

from turbomim.benchmarks.faults.image_kinds import png
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.tars.manifest import BAD, MANIFEST
from turbomim.pipeline.tars.split import Split
from turbomim.train.report.page import html_picture, short_paths
from turbomim.train.report.report import report_page
from turbomim.train.report.run import read_runs

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\x1b[31m\ud800"


def test_names_from_files_are_text_and_never_markup(
    bare: Path,
    tiny_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder's name, JSON keys and values, log lines, bad samples, settings and benchmark rows."""
    name = "<svg onload=alert(3)>\"'&"
    run = bare.rename(tmp_path / name)
    shutil.copytree(tiny_split.folder, tmp_path / "split")
    (tmp_path / "split" / BAD).write_text(json.dumps({"path": HOSTILE, "reason": HOSTILE}) + "\n")
    text = (run / "config.yaml").read_text().replace(str(tiny_split.folder), str(tmp_path / "split"))
    (run / "config.yaml").write_text(text.replace("wandb: ''", f"wandb: {json.dumps(HOSTILE)}"))
    for folder in ("eval", "analysis", "images", "bench"):
        (run / folder).mkdir()
    (run / "eval" / f"{name}.json").write_text(
        json.dumps({"step": HOSTILE, "scores": {HOSTILE: {HOSTILE: 0.5}}})
    )
    (run / "eval" / "other.json").write_text(json.dumps({HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}))
    tree = {"analysis": HOSTILE, "settings": {HOSTILE: HOSTILE}, "results": {HOSTILE: HOSTILE}}
    (run / "analysis" / f"{name}.json").write_text(json.dumps(tree))
    for folder in ("analysis", "images"):
        Image.new("RGB", (8, 8)).save(run / folder / f"{name}.png")
    (run / "bench" / "x.jsonl").write_text(json.dumps({HOSTILE: HOSTILE}) + "\n")
    (run / "env.json").write_text(json.dumps({"command": [HOSTILE, HOSTILE], HOSTILE: {HOSTILE: HOSTILE}}))
    (run / "status.json").write_text(json.dumps({"status": HOSTILE}))
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({**r, f"model/{HOSTILE}": 1.0, "model/b": 2.0}) + "\n" for r in RECORDS)
    )
    log = HOSTILE.replace("\ud800", "")
    (run / "train.log").write_text(
        f"2026-01-02 03:04:05  {log} cannot be decoded ({log}): replaced by {log}\n"
    )
    out = tmp_path / "page.html"
    assert call(monkeypatch, "report", str(run), "--out", str(out), "--benchmarks", str(run / "bench")) == 0
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.faults == []
    assert {e.name for e in page.root.all()} & {"script", "iframe"} == set()
    assert not any(key.startswith("on") for e in page.root.all() for key in e.attributes)
    assert all(
        img.attributes["src"].startswith("data:") for img in page.root.all("img") if img.attributes["src"]
    )
    assert "\x00" not in text and "\x1b" not in text
    shown = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
    for place in (
        "summary",
        "settings",
        "method",
        "evaluation",
        "analyses",
        "benchmarks",
        "environment",
        "bad-samples",
    ):
        assert shown in part(page, place).text, place
    assert name in page.root.all("h1")[0].text and page.root.id("problems") is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "config": (lambda run: (run / "config.yaml").write_text("data: {nix: 1}"), "unknown key 'data.nix'"),
    "config bytes": (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"), "utf-8"),
    "config yaml": (lambda run: (run / "config.yaml").write_text("data: ["), "config.yaml is not YAML"),
    "metrics": (
        lambda run: (run / "metrics.jsonl").write_text('garbage\n[1]\n{"step": 5, "loss": 0.5}\n{"st'),
        "metrics.jsonl: 2 of its lines are not JSON objects, line 1 first",
    ),
    "records": (
        lambda run: (run / "metrics.jsonl").write_text('{"step": "5"}\n{"step": 5, "loss": NaN, "lr": ""}\n'),
        "metrics.jsonl: 1 of its records have no step",
    ),
    "huge": (lambda run: (run / "status.json").write_text(f'{{"a": {"1" * 5000}}}'), "status.json cannot be"),
    "status": (lambda run: cut(run / "status.json"), "status.json cannot be read: "),
    "env": (lambda run: (run / "env.json").write_text("[]"), "env.json is not a JSON object"),
    "deep": (lambda run: (run / "env.json").write_text("[" * 100_000), "env.json cannot be read: "),
    "eval": (lambda run: cut(run / "eval" / "knn.json"), "knn.json cannot be read: "),
    "analysis": (lambda run: (run / "analysis" / "frequency.json").write_bytes(b"\x80"), "json cannot be"),
    "picture": (lambda run: cut(next((run / "images").iterdir())), ".png cannot be shown: "),
    "no picture": (lambda run: (run / "analysis" / "frequency.png").write_text("x"), "png cannot be shown"),
    "checkpoint": (
        lambda run: [path.write_text("{") for path in (run / "ckpt").glob("*/state.json")],
        "state.json cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_one_line_in_the_report(name: str, full: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(full, run)
    for path in sorted((run / "images").iterdir())[1:]:
        path.unlink()
    spoil, line = DAMAGES[name]
    spoil(run)
    page = page_of(run)
    assert page.faults == []
    lines = [item.text for item in part(page, "problems").all("li")]
    assert len(lines) == 1 and line in lines[0], lines
    kept = {str(e.attributes["id"]) for e in page.root.all("section")}
    lost = set(SECTIONS) - {"benchmarks"} - kept
    # what only that file told is missing, and no more
    allowed = {
        "config": {"settings", "data", "bad-samples"}, "metrics": {"method"}, "records": {"method", "curves"},
        "env": {"environment"}, "deep": {"environment"}, "eval": {"evaluation"},
        "picture": {"reconstructions"},
    }  # fmt: skip
    assert lost <= allowed.get(name.split()[0], set())


def test_damaged_data_are_named_too(full: Path, tiny_split: Split, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(full, run)
    split = tmp_path / "split"
    shutil.copytree(tiny_split.folder, split)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub("  path: .*", f"  path: {split}", config))
    (split / BAD).write_text("garbage\n\n")
    cut(split / MANIFEST)
    lines = [item.text for item in part(page_of(run), "problems").all("li")]
    assert [line for line in lines if "manifest.json' is not a manifest of shards" in line]
    assert [line for line in lines if "bad.jsonl: 1 of its lines are not JSON objects" in line]
    shutil.rmtree(split)
    (line,) = [item.text for item in part(page_of(run), "problems").all("li")]
    assert (
        line == f"{end_of(split)}, the training data, is not a folder seen from here: its facts are left out"
    )


@pytest.mark.parametrize(
    ("altered", "shown"),
    [
        (None, ""),
        ("x", ""),
        (
            {"alpha": {"images": 1200, "first": HOSTILE}, "new": 3, "cmyk": 4},
            "1,200 with alpha, which is dropped",
        ),
        ({"alpha": {}, "frames": {"images": 2}}, "; 2 with more than one frame, of which the first is taken"),
    ],
)
def test_what_training_sees_otherwise_is_among_the_data(
    altered: object,
    shown: str,
    bare: Path,
    tiny_split: Split,
    tmp_path: Path,
) -> None:
    split = tmp_path / "split"
    shutil.copytree(tiny_split.folder, split)
    tree = json.loads((split / MANIFEST).read_text())
    tree["made"] |= {"altered": altered} if altered else {}
    (split / MANIFEST).write_text(json.dumps(tree))
    text = (bare / "config.yaml").read_text()
    (bare / "config.yaml").write_text(text.replace(str(tiny_split.folder), str(split)))
    page = page_of(bare)
    rows = dict(cells(part(page, "data")))
    assert page.faults == [] and shown in rows.get("images seen otherwise", "")
    assert ("images seen otherwise" in rows) == bool(shown)


def test_pictures_of_16_bits_are_scaled_as_for_training(tmp_path: Path) -> None:
    """Planted, and seen to fail: Pillow's RGB, which shows them white."""
    (tmp_path / "deep.png").write_bytes(png(8, 8, 16, 0, 8 * (b"\0" + 8 * (10_000).to_bytes(2, "big"))))
    source = html_picture(tmp_path / "deep.png", "a grey").partition("base64,")[2].partition('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(source))) as shown:
        assert abs(np.asarray(shown).astype(int) - 39).max() <= 1


def test_data_of_another_fingerprint_are_said_to_be(full: Path, photo_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    shutil.copytree(full, run)
    make_shards(photo_folder, tmp_path / "other", ShardSettings(shard_size=20))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub("  path: .*", f"  path: {tmp_path / 'other'}", config))
    (note,) = part(page_of(run), "data").all("li")
    assert f"{end_of(tmp_path / 'other')} is not the data that r was trained on" in note.text
    assert part(page_of(full), "data").all("li") == []


def test_data_are_found_from_another_folder(
    bare: Path,
    tiny_split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Paths of the settings count from where the run began, wherever the report is made."""
    began = tmp_path / "began"
    (began / "runs").mkdir(parents=True)
    shutil.copytree(tiny_split.folder, began / "shards")
    run = bare.rename(began / "runs" / "bare")
    text = (run / "config.yaml").read_text()
    text = text.replace(str(tiny_split.folder), "shards").replace(f"folder: {tmp_path}", "folder: runs")
    (run / "config.yaml").write_text(text)
    monkeypatch.chdir(began / "runs")
    facts = {row[0]: row[1] for row in cells(part(page_of(Path("bare")), "data"))}
    assert facts["folder"] == "…/began/shards" and facts["samples"] == "33"


def test_no_page_says_where_its_author_keeps_things(bare: Path, full: Path, tmp_path: Path) -> None:
    home = "/srv/annika/deep/my runs"
    env = json.loads((bare / "env.json").read_text())
    words = [
        "/srv/annika/deep/src/turbomim/__main__.py",
        "pretrain",
        "demo",
        f"--data.path={home}/a/shards",
        home,
    ]
    (bare / "env.json").write_text(
        json.dumps({**env, "command": words, "cache": "/srv/annika/deep/.cache/turbomim"})
    )
    text = (bare / "config.yaml").read_text()
    (bare / "config.yaml").write_text(re.sub("  path: .*", f"  path: {home}/a/shards", text))
    with (bare / "train.log").open("a") as log:
        print(
            "2026-01-02 03:05:06  '/srv/annika/d d/one/x.tar':k cannot be decoded (cut): "
            "replaced by /srv/annika/y/z",
            file=log,
        )
    (bare / "eval").mkdir()
    scores = {"trained": {"weighted": 0.25}}
    result = {"step": 1, "train_samples": 5, "train": "/srv/annika/deep/shards/train", "scores": scores}
    (bare / "eval" / "knn.json").write_text(json.dumps(result))
    (bare / "eval" / "broken.json").write_text("{")
    page = report_page(read_runs([bare, full]))
    assert Page(page).faults == []
    plain = re.sub('base64,[^"]+', "", page)
    for word in ("annika", "srv", "my runs/a", str(tmp_path), str(full.parent)):
        assert word not in plain, word
    for word in ("…/a/shards, the training data, is not", "…/one/x.tar", "…/y/z", "…/.cache/turbomim"):
        assert word in plain, word
    assert "turbomim pretrain demo" in plain and "--data.path=…/a/shards" in plain
    assert "5 samples of …/shards/train to learn from" in plain
    assert short_paths("1/2 of 3 img/s, and/or https://a/b/c") == "1/2 of 3 img/s, and/or https://a/b/c"
