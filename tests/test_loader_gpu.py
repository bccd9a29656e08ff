"""The loader on a GPU: where each step runs, and on a device the same samples and nearly the same pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from test_loader import by_position, load
from test_repair import damage, own_split  # noqa: F401
from test_stores import stored

from turbomim.benchmarks.damage_images import write_split
from turbomim.benchmarks.image_kinds import kinds
from turbomim.pipeline.crops import Crop
from turbomim.pipeline.dali import CropGraph
from turbomim.pipeline.decode import Backend, GpuDecoding
from turbomim.pipeline.loader import _gpu_decoding
from turbomim.pipeline.shards import Split
from turbomim.pipeline.store import Kind

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(
    ("store", "crop", "decode", "steps"),
    [
        ("original", "src", "mixed", "Image gpu, Resize gpu, Slice gpu, Flip gpu"),
        ("original", "rrc", "mixed", "Image gpu, Slice gpu, Resize gpu, Flip gpu"),
        ("original", "src", "cpu", "Image cpu, Resize gpu, Slice gpu, Flip gpu"),
        ("original", "rrc", "cpu", "Image cpu, Slice cpu, Resize gpu, Flip gpu"),
        ("resized", "src", "mixed", "Image gpu, Slice gpu, Flip gpu"),
        ("resized", "src", "cpu", "Image cpu, Slice cpu, Flip gpu"),
        ("raw", "src", "mixed", "Slice cpu, Flip gpu"),
        ("raw", "rrc", "mixed", "Slice cpu, Resize gpu, Flip gpu"),
    ],
)
def test_where_each_step_runs(
    store: Kind, crop: Crop, decode: Backend, steps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resize is the GPU's; what is cut on the CPU is cut before it is copied.  Needs no device."""
    outputs: list[DataNode] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(Pipeline, "set_outputs", lambda _, node: outputs.append(node))
    monkeypatch.setattr(Pipeline, "build", lambda _: None)
    CropGraph(
        crop,
        48,
        store=store,
        batch=2,
        device="cuda",
        decode=decode,
        gpu=GpuDecoding(hw_decoder_load=0.5, height=300, width=400),
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


class TestOnDevice:
    """What only a device can show."""

    pytestmark = needs_gpu

    @pytest.mark.parametrize("decode", ["mixed", "cpu"])
    @pytest.mark.parametrize("crop", ["src", "rrc"])
    @pytest.mark.parametrize("store", ["original", "resized", "raw"])
    def test_crops_are_nearly_those_of_the_cpu(
        self, tiny_split: Split, tmp_path: Path, store: str, crop: str, decode: str
    ) -> None:
        split = tiny_split if store == "original" else stored(tmp_path, store)
        settings = {"size": 48 if store == "original" else 96, "crop": crop}
        expected = load(split, 4, **settings)
        for batch, other in zip(
            load(split, 4, device="cuda", decode=decode, **settings), expected, strict=True
        ):
            assert batch.images_BHWC.is_cuda
            assert batch.images_BHWC.is_contiguous()
            assert batch.ids_B.tolist() == other.ids_B.tolist()
            assert batch.labels_B.tolist() == other.labels_B.tolist()
            difference = batch.images_BHWC.cpu().float() - other.images_BHWC.float()
            # the CPU cuts its intermediate to float, the GPU too, in another order; nvJPEG has its own IDCT
            assert difference.abs().mean() < 1
            assert difference.abs().max() <= 16

    @pytest.mark.parametrize("decode", ["mixed", "cpu"])
    @pytest.mark.parametrize("prefetch", [1, 3])
    def test_stand_ins_are_those_of_the_cpu(
        self,
        own_split: Split,  # noqa: F811
        decode: str,
        prefetch: int,
    ) -> None:
        for sample, how in {4: "cut", 12: "zeros", 13: "huge", 32: "cut"}.items():
            damage(own_split, sample, how)
        settings = {"max_bad_share": 1.0, "notify": print}
        expected = by_position(load(own_split, 12, **settings))
        batches = load(own_split, 12, device="cuda", decode=decode, prefetch=prefetch, **settings)
        assert [batch.position for batch in batches] == list(range(0, 72, 6))
        for batch in batches:
            for i, (label, sample) in enumerate(
                zip(batch.labels_B.tolist(), batch.ids_B.tolist(), strict=True)
            ):
                pixels, *numbers = expected[batch.position + i]
                assert numbers[:2] == [label, sample]
                other = np.frombuffer(pixels, np.uint8).reshape(48, 48, 3).astype(float)
                assert np.abs(batch.images_BHWC[i].cpu().numpy() - other).mean() < 3

    def test_batches_stay_valid_while_held(self, tiny_split: Split) -> None:
        held = load(tiny_split, 20, device="cuda")
        again = load(tiny_split, 20, device="cuda")
        assert all(torch.equal(a.images_BHWC, b.images_BHWC) for a, b in zip(held, again, strict=True))
