"""`turbomim.export`: what the command writes, with the lines that load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import transformers
from tests.exported import STEP, make_run

import turbomim

pytestmark = pytest.mark.usefixtures("here")


def test_each_line_loads_from_where_it_is() -> None:
    run = turbomim.Run(make_run("mae", "mine").run)
    (encoder,) = turbomim.export(run, "timm")
    assert encoder.path == Path("runs/mine/export") and encoder.step == STEP
    assert encoder.line == 'timm.create_model("local-dir:runs/mine/export", pretrained=True)'
    vit, mae = turbomim.export(run, "hf", license="apache-2.0")
    assert vit.line == 'transformers.AutoModel.from_pretrained("runs/mine/export-hf")'
    assert mae.line == 'transformers.ViTMAEForPreTraining.from_pretrained("runs/mine/export-hf/mae")'
    assert "license: apache-2.0\n" in Path("runs/mine/export-hf/README.md").read_text()
    (other,) = turbomim.export(run, "mmselfsup", out='a "b"')
    space: dict[str, Any] = {"timm": timm, "transformers": transformers, "torch": __import__("torch")}
    kinds = [type(eval(each.line, space)).__name__ for each in (encoder, vit, mae, other)]
    assert kinds == ["VisionTransformer", "ViTModel", "ViTMAEForPreTraining", "dict"]
    assert {path.name for path in Path("runs/mine").glob("export*")} == {"export", "export-hf"}


def test_what_cannot_be_is_one_line() -> None:
    run = make_run("convmae").run
    for arguments, words in (
        ({"to": "onnx"}, "to 'onnx': must be one of timm, hf"),
        ({"to": "mmseg", "size": "96"}, "size = '96': must be a whole number"),
        ({"to": "mmseg", "size": 96.5}, "size = 96.5: must be a whole number"),
        ({"to": "hf"}, "hf has no model of method convmae: give --to safetensors"),
        ({"to": "safetensors", "out": "a.pth"}, "out a.pth: must be a folder"),
        ({"to": "safetensors", "license": "My own"}, "--license 'My own': must be as the Hub has it"),
        ({"to": "safetensors", "size": 32}, "is for --to mmseg alone"),
    ):
        with pytest.raises(turbomim.UserError, match=words) as error:
            turbomim.export(run, **arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(turbomim.UserError, match="nowhere is not a run"):
        turbomim.export("nowhere", "timm")
