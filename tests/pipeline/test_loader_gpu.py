"""The loader for a GPU, as far as no GPU is needed: where each step runs, and what the decoder is given."""

from pathlib import Path
from typing import Any

import pytest
import torch
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from turbomim.benchmarks.faults.image_kinds import kinds
from turbomim.benchmarks.write_split import write_split
from turbomim.pipeline.decoding.crop import Crop, CropKind
from turbomim.pipeline.decoding.dali import CropGraph, GpuDecoding
from turbomim.pipeline.loader import _gpu_decoding
from turbomim.pipeline.loader_settings import Backend
from turbomim.pipeline.tars.split import Split
from turbomim.pipeline.tars.store import Kind


@pytest.mark.parametrize(
    ("store", "crop", "decode", "steps"),
    [
        ("original", "src", "mixed", "Image gpu, Resize gpu, Slice gpu, Flip gpu"),
        ("original", "rrc", "mixed", "Image gpu, Slice gpu, Resize gpu, Flip gpu"),
        ("original", "src", "cpu", "Resize gpu, Slice gpu, Flip gpu"),
        ("original", "rrc", "cpu", "Slice cpu, Resize gpu, Flip gpu"),
        ("resized", "src", "mixed", "Image gpu, Slice gpu, Flip gpu"),
        ("resized", "src", "cpu", "Slice cpu, Flip gpu"),
        ("raw", "src", "cpu", "Slice cpu, Flip gpu"),
        ("raw", "rrc", "cpu", "Slice cpu, Resize gpu, Flip gpu"),
    ],
)
def test_where_each_step_runs(
    store: Kind, crop: CropKind, decode: Backend, steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resize is the GPU's; what is cut on the CPU is cut before it is copied.  Needs no device."""
    outputs: list[DataNode] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(Pipeline, "set_outputs", lambda _, node: outputs.append(node))
    monkeypatch.setattr(Pipeline, "build", lambda _: None)
    CropGraph(
        Crop(kind=crop, size=48),
        store=store,
        batch=2,
        device="cuda",
        encoded=GpuDecoding(hw_decoder_load=0.5, height=300, width=400) if decode == "mixed" else None,
        threads=1,
        prefetch=1,
    )
    node: Any = outputs[0]
    found: list[str] = []
    while node.source.inputs:
        # the node itself may be a copy on the GPU: the operator's own output says where it ran
        found.insert(0, f"{node.name.split('_')[2]} {node.source.outputs[0].device}")
        node = node.source.inputs[0]
    assert ", ".join(found) == steps


def test_the_decoder_is_prepared_for_the_largest_image(tiny_split: Split, tmp_path: Path) -> None:
    """By bytes, as the index knows them; what has no size, or too large a one, prepares nothing."""
    assert _gpu_decoding(tiny_split, 0.3).hw_decoder_load == 0.3
    by_name = {kind.name: kind.content for kind in kinds()}
    small, bomb = by_name["1 x 1 PNG"], by_name["PNG of 20000 x 20000, 49 kB"]
    found = _gpu_decoding(write_split(tmp_path / "a", [small, by_name["JPEG"], small]), 0.5)
    assert (found.height, found.width) == (90, 120)
    found = _gpu_decoding(write_split(tmp_path / "b", [by_name["JPEG"], bomb]), 0.5)
    assert (found.height, found.width) == (0, 0)
