"""`turbomim demo`: everything that it leaves behind, small; a second call; other files are left alone."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import timm
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from turbomim.pipeline.system.errors import UserError
from turbomim.train.demo.demo import demo
from turbomim.train.folder.log import read_metrics
from turbomim.train.pictures.reconstruction import draw_reconstructions


def test_the_demo_leaves_other_files_alone(tmp_path: Path) -> None:
    other = tmp_path / "shards" / "train" / "precious.tar"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    with pytest.raises(UserError, match="holds something else"):
        demo(tmp_path, images=96, compile_step=False, console=Console(file=io.StringIO()))
    assert other.read_bytes() == b"x"


def test_the_demo_small_and_its_second_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that `turbomim demo` leaves behind, with 96 photographs and six epochs, uncompiled."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/demo")
    said = io.StringIO()
    console = Console(file=said, width=200)
    demo(folder, epochs=6, images=96, compile_step=False, console=console)
    for name in (
        "ckpt/latest",
        "metrics.jsonl",
        "loss.png",
        "reconstruction.png",
        "export/model.safetensors",
        "eval/source.json",
    ):
        assert (folder / name).exists(), name
    assert Image.open(folder / "reconstruction.png").width > 900
    records = read_metrics(folder / "metrics.jsonl")
    assert records[-1]["heldout_loss"] < 1.2
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    text = said.getvalue()
    assert "img/s" in text and "waiting for data" in text and "next, with your own photographs" in text
    asked = json.loads((folder / "eval/source.json").read_text())
    share = asked["scores"]["trained: mean of patch tokens"]["nearest crop"]
    assert "which photograph does this crop come from?" in text
    assert asked["step"] == records[-1]["step"] and f"trained encoder {100 * share:5.1f} %" in text
    call_line = next(
        line.strip() for line in text.splitlines() if line.strip().startswith("timm.create_model")
    )
    encoder = eval(call_line, {"timm": timm})
    assert set(encoder.state_dict()) == set(load_file(folder / "export/model.safetensors"))

    before = {p: p.stat().st_mtime_ns for p in (folder / "ckpt").rglob("*")}
    demo(folder, epochs=6, images=96, compile_step=False, console=console)
    assert "is done: " in said.getvalue()
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "ckpt").rglob("*")}

    assert draw_reconstructions(folder, images=2).name.startswith("reconstruction-")
    shutil.rmtree(folder / "ckpt")
    with pytest.raises(UserError, match="has no whole checkpoint yet"):
        draw_reconstructions(folder)
