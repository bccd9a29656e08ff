"""`turbomim predict`: the head's probabilities of every image, by the test's crop, in three kinds of files.

Planted, each seen to fail the test named: the crop of `embed` (`test_probabilities_are_those_of_the_head`);
labels as the source numbers them (`test_labels_are_compared_by_name`); the share of all images, not of those
with a label (the same).
"""

from __future__ import annotations

import csv
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.calls import assert_one_line, call
from tests.exported import make_run, pixels
from tests.finetuned import NAMES, make_finetuning
from torchvision.transforms import functional as vision

import turbomim
from turbomim.pipeline.tars.split import Split
from turbomim.train.encoder import row_files

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize("kind", ["mae", "convmae", "swin"])
def test_probabilities_are_those_of_the_head(kind: str, photo_folder: Path) -> None:
    run, config, model = make_finetuning(kind, Path("runs/r/eval"))
    found = turbomim.predict(run, photo_folder / "ash", top=2, batch=4)
    assert found.keys == sorted(path.name for path in (photo_folder / "ash").iterdir())
    assert found.classes == NAMES and found.step == 3 and found.top_NK.shape == (11, 2)
    # `finetune.test_crop` is 0.75 of the short side: 48 of 64 pixels
    size, short_side = config.data.size, round(config.data.size / config.finetune.test_crop)
    for key, names, shares in zip(found.keys, found.names, found.probabilities_NK, strict=True):
        with Image.open(photo_folder / "ash" / key) as image:
            short = vision.resize(image.convert("RGB"), short_side, vision.InterpolationMode.BICUBIC)
        cut = torch.from_numpy(np.array(vision.center_crop(short, [size, size])))
        with torch.no_grad():
            expected = model.logits(pixels(cut[None]))[0].softmax(0)
        assert abs(float(shares[0]) - float(expected.max())) < 0.02, key
        assert names[0] == NAMES[int(expected.argmax())] or float(shares[0] - shares[1]) < 0.02
    assert found.top1 is None and (found.labels_N == -1).all()


@pytest.mark.parametrize("kind", ["mae", "swin"])
def test_a_loaded_fine_tuning_tells_the_same(kind: str, photo_folder: Path) -> None:
    """Its transform is the crop of the test, its features are those of the run."""
    run, _, _ = make_finetuning(kind, Path("runs/r/eval"))
    model, found = turbomim.load(run), turbomim.predict(run, photo_folder / "ash")
    for key, row, shares in zip(found.keys, found.top_NK, found.probabilities_NK, strict=True):
        with Image.open(photo_folder / "ash" / key) as image, torch.no_grad():
            theirs = model(model.transform(image)[None]).softmax(1)[0, torch.from_numpy(row)]
        np.testing.assert_allclose(theirs.numpy(), shares, rtol=0, atol=1e-5)
    (exported,) = turbomim.export(run, "timm")
    ours, *others = (turbomim.embed(each, photo_folder / "ash") for each in (run, model, exported.path))
    for other in others:
        np.testing.assert_allclose(ours.features_ND, other.features_ND, rtol=0, atol=1e-5)


def test_an_export_for_transformers_is_no_encoder_here(photo_folder: Path) -> None:
    run, _, _ = make_finetuning("mae", Path("runs/r/eval"))
    (exported,) = turbomim.export(run, "hf")
    said = "is a BEiT of transformers, .* give the fine-tuning itself"
    with pytest.raises(turbomim.UserError, match=said):
        turbomim.load(exported.path)
    with pytest.raises(turbomim.UserError, match=said):
        turbomim.embed(exported.path, photo_folder)


def test_labels_are_compared_by_name(photo_folder: Path, tiny_split: Split) -> None:
    """Of ash, birch and cedar the head knows the first and the last."""
    run, _, _ = make_finetuning("mae", Path("runs/r/eval"))
    for source in (photo_folder, tiny_split.folder):
        found = turbomim.predict(run, source, top=1)
        own = [next((name for name in NAMES if key.startswith(name)), "") for key in found.keys]
        assert [NAMES[label] if label >= 0 else "" for label in found.labels_N] == own
        known_N = found.labels_N >= 0
        assert known_N.sum() == 22
        # one row each of the two classes is put right: of the labelled rows, not of all
        found.top_NK[:] = 1
        for label in (0, 2):
            found.top_NK[np.flatnonzero(found.labels_N == label)[0]] = label
        assert found.top1 == pytest.approx(2 / 22)


@pytest.mark.parametrize("made_by", ["embed", "predict"])
def test_a_file_that_cannot_be_written_keeps_its_list(
    made_by: str, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted, and seen to fail: the list of images left out written before the file."""
    run, _, _ = make_finetuning("mae", Path("runs/r/eval"))
    shutil.copytree(photo_folder, "photos")
    Path("photos/ash/tree_00.jpg").write_bytes(b"")
    getattr(turbomim, made_by)(run, "photos", "f.npz")
    before = Path("f.npz.left-out.jsonl").read_bytes()
    Path("photos/ash/tree_01.jpg").write_bytes(b"")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(row_files, "save_npz", full)
    with pytest.raises(turbomim.UserError, match="No space left"):
        getattr(turbomim, made_by)(run, "photos", "f.npz")
    assert Path("f.npz.left-out.jsonl").read_bytes() == before


@pytest.mark.parametrize("ending", ["csv", "jsonl", "npz"])
def test_files_hold_what_is_returned(
    ending: str,
    photo_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _, _ = make_finetuning("mae", Path("runs/r/eval"))
    shutil.copytree(photo_folder, "photos")
    Path("photos/ash/tree_00.jpg").write_bytes(b"")
    out = Path("made") / f"p.{ending}"
    assert call(monkeypatch, "predict", str(run), "photos", "--out", str(out), "--top", "9") == 0
    said = capsys.readouterr().out
    assert f"{out}: 32 images, the 3 likeliest of 3 classes\ntop-1 " in said
    assert "left out: 1 image, named in made/p." in said and "empty file" in said
    (left,) = Path(f"{out}.left-out.jsonl").read_text().splitlines()
    assert json.loads(left)["key"] == "ash/tree_00.jpg"
    found = turbomim.predict(run, "photos")
    if ending == "npz":
        with np.load(out) as file:
            assert np.array_equal(file["top"], found.top_NK) and file["classes"].tolist() == [*NAMES]
            assert np.array_equal(file["probabilities"], found.probabilities_NK)
            assert file["keys"].tolist() == found.keys and json.loads(str(file["made"]))["step"] == 3
        return
    text = out.read_text(encoding="utf-8")
    assert "Björk" in text
    if ending == "csv":
        table: list[dict[str, Any]] = [*csv.DictReader(text.splitlines())]
        names = [[row[f"class_{place}"] for place in (1, 2, 3)] for row in table]
        shares = [[float(row[f"probability_{place}"]) for place in (1, 2, 3)] for row in table]
        assert [row["label"] for row in table].count("cedar") == 11
    else:
        table = [json.loads(line) for line in text.splitlines()]
        names, shares = [row["classes"] for row in table], [row["probabilities"] for row in table]
        assert table[0]["label"] == "ash" and "label" not in table[-12]
    assert [row["key"] for row in table] == found.keys and names == found.names
    assert np.array_equal(np.array(shares, np.float32), found.probabilities_NK)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["TUNED", "PHOTOS", "--out", "p.txt"],
            2,
            "name ends in .csv or .jsonl or .npz",
        ),
        (["TUNED", "PHOTOS", "--out", "p.csv", "--top", "0"], 2, "--top 0: must be at least 1"),
        (["RUN", "PHOTOS", "--out", "p.csv"], 1, "runs/p is no fine-tuning, it has no head"),
        (["/nowhere", "PHOTOS", "--out", "p.csv"], 1, "/nowhere is not a run"),
        (["TUNED", "/nowhere", "--out", "p.csv"], 1, "'/nowhere' does not exist"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    photo_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    run, _, _ = make_finetuning("mae", Path("runs/r/eval"))
    places = {"TUNED": run, "RUN": make_run("mae", "p").run, "PHOTOS": photo_folder}
    assert call(monkeypatch, "predict", *(str(places.get(word, word)) for word in words)) == code
    assert_one_line(capsys, message)
    assert not [*Path().glob("p.*")]
