"""The loader on a GPU: the same samples as on a CPU, and crops that are nearly their definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("nvidia.dali", reason="DALI, which decodes photographs, is not installed")

from tests.pipeline.decoding.crop_reference import by_definition
from tests.pipeline.tars.test_store import stored
from tests.pipeline.test_bad_samples import damage
from tests.pipeline.test_loader import SEED, by_position, load
from tests.train.finetune.test_rand_augment import POLICY, made_of, stream

from turbomim.pipeline.decoding.crop import Crop
from turbomim.pipeline.decoding.crop_draws import draw_crops
from turbomim.pipeline.reading.shard_files import ShardFiles, read_samples
from turbomim.pipeline.stream.turns import Turn
from turbomim.pipeline.tars.split import Split


@pytest.fixture(autouse=True)
def a_gpu(device: torch.device) -> None:
    """A CPU's loader has tests of its own."""
    if device.type == "cpu":
        pytest.skip("the loader of a GPU")


@pytest.mark.parametrize("decode", ["mixed", "cpu"])
@pytest.mark.parametrize("crop", ["src", "rrc"])
@pytest.mark.parametrize("store", ["original", "resized", "raw"])
def test_crops_are_nearly_those_of_the_cpu(
    tiny_split: Split, tmp_path: Path, store: str, crop: str, decode: str
) -> None:
    split = tiny_split if store == "original" else stored(tmp_path, store)
    settings = {"size": 48 if store == "original" else 96, "crop": crop}
    expected = load(split, 4, **settings)
    for batch, other in zip(load(split, 4, device="cuda", decode=decode, **settings), expected, strict=True):
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
    own_split: Split,
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
        for i, (label, sample) in enumerate(zip(batch.labels_B.tolist(), batch.ids_B.tolist(), strict=True)):
            pixels, *numbers = expected[batch.position + i]
            assert numbers[:2] == [label, sample]
            other = np.frombuffer(pixels, np.uint8).reshape(48, 48, 3).astype(float)
            assert np.abs(batch.images_BHWC[i].cpu().numpy() - other).mean() < 3


@pytest.mark.parametrize("decode", ["mixed", "cpu"])
def test_crops_are_nearly_their_definition(tiny_split: Split, decode: str) -> None:
    """In float: on average within a grey level, nvJPEG's own IDCT included."""
    files = ShardFiles(tiny_split)
    for batch in load(tiny_split, 4, device="cuda", decode=decode):
        ids_B, epochs_B = batch.ids_B.cpu().numpy(), batch.epochs_B.cpu().numpy()
        turn = Turn(position=batch.position, epochs_B=epochs_B, ids_B=ids_B)
        inputs = draw_crops(Crop(size=48), SEED, turn)
        samples = read_samples(tiny_split, files, ids_B)
        for place, image in enumerate(samples.images):
            right = by_definition(image, inputs["words"][place], int(inputs["flips"][place]), 48)
            difference = np.abs(batch.images_BHWC[place].cpu().numpy() - right)
            assert difference.mean() < 1 and difference.max() <= 16


def test_a_gpu_s_crops_are_changed_alike(tiny_split: Split) -> None:
    gpu = torch.device("cuda")
    plain, changed = (stream(tiny_split, 8, device=gpu, policy=policy) for policy in ("", POLICY))
    assert all(made_of(one, other) for one, other in zip(plain, changed, strict=True))
    assert all(batch.images_BHWC.is_cuda and batch.ids_B.is_cuda for batch in changed)


def test_batches_stay_valid_while_held(tiny_split: Split) -> None:
    held = load(tiny_split, 20, device="cuda")
    again = load(tiny_split, 20, device="cuda")
    assert all(torch.equal(a.images_BHWC, b.images_BHWC) for a, b in zip(held, again, strict=True))
