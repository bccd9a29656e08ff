"""Frozen features against timm's own model, and the crops they are made of against torchvision's.

Planted, each seen to fail the test named: the class token in the mean, the mask's patches left out, or no
final norm (`test_features_are_those_of_timms_model`); the window half a pixel off, or a flip
(`test_centre_crops_are_torchvisions`); samples in storage order (`test_ids_decide_the_order`).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.broken_split import with_broken_image
from timm.models.vision_transformer import VisionTransformer
from torchvision.transforms import functional as vision

from turbomim.benchmarks.write_split import texture
from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crop, centre_crops, say_left_out
from turbomim.pipeline.making.pack import make_shards
from turbomim.pipeline.making.settings import ShardSettings
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split, open_split
from turbomim.pipeline.tars.store import Interpolation, Kind
from turbomim.train.encoder.features import encode, every_feature, extract, pixels
from turbomim.train.export.timm import timm_arguments
from turbomim.train.models.mae import MAE
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config, DataConfig
from turbomim.train.settings.model import ModelConfig

CONFIG = Config(
    data=DataConfig(size=40),
    model=ModelConfig(
        patch=8, width=48, depth=3, heads=4, decoder_width=16, decoder_depth=1, decoder_heads=2,
        target="gaussian", radius=7.0,
    ),
)  # fmt: skip
CROP = CentreCrop(size=40)


def images(count: int, size: int = 40) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_features_are_those_of_timms_model() -> None:
    """Exported weights in timm's ViT, whole images normalised as timm's transforms do."""
    model = MAE(CONFIG)
    # a class token and norms that do something
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                parameter.add_(0.05 * noise)
    theirs = cast(VisionTransformer, timm.create_model(**timm_arguments(CONFIG)).eval())
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(MAE.decoder_names)}
    theirs.load_state_dict(weights)
    batch = images(5)
    inputs = torch.stack(
        [vision.normalize(vision.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD) for image in batch]
    )
    with torch.no_grad():
        tokens = theirs.forward_features(inputs)
    cls, mean = encode(model.eval(), torch.from_numpy(batch)).values()
    assert cls.dtype == mean.dtype == torch.float32
    torch.testing.assert_close(cls, tokens[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean, tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-4)


def test_batches_do_not_change_features() -> None:
    batch, labels = images(7), np.arange(7)
    encoders = {"one": MAE(CONFIG).eval(), "two": MAE(dataclasses.replace(CONFIG, run=CONFIG.run)).eval()}
    features_of, device = partial(every_feature, encoders), torch.device("cpu")
    whole = extract([(batch, labels)], features_of, device)
    parts = extract([(batch[:3], labels[:3]), (batch[3:], labels[3:])], features_of, device)
    assert set(whole.by_name) == {
        *(f"{name}: {kind}" for name in encoders for kind in ("class token", "mean of patch tokens")),
        "raw pixels",
    }
    assert torch.equal(parts.labels_N, torch.arange(7))
    for name, features in whole.by_name.items():
        torch.testing.assert_close(parts.by_name[name], features, rtol=1e-4, atol=1e-5)


def test_pixels_are_the_images_and_large_ones_are_averaged_down() -> None:
    small = images(2, 16)
    expected = torch.from_numpy(small).permute(0, 3, 1, 2).flatten(1) / 255
    torch.testing.assert_close(pixels(torch.from_numpy(small)), expected)
    large = images(2, 64)
    averaged = torch.from_numpy(large).reshape(2, 32, 2, 32, 2, 3).float().mean((2, 4)) / 255
    torch.testing.assert_close(pixels(torch.from_numpy(large)), averaged.permute(0, 3, 1, 2).flatten(1))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(50, 50), (61, 90), (97, 43), (40, 57), (40, 40)])
def test_centre_crops_are_torchvisions(height: int, width: int, interpolation: Interpolation) -> None:
    image = texture(height, height, width)
    mode = vision.InterpolationMode(interpolation)
    expected = vision.center_crop(vision.resize(Image.fromarray(image), 40, mode), [40, 40])
    found = centre_crop(image, CentreCrop(size=40, interpolation=interpolation))
    # torch's uint8 kernel rounds as Pillow does but for one grey level
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_ids_decide_the_order(tiny_split: Split) -> None:
    """Every sample in a scrambled order, in batches that do not divide them: labels and pixels of each id."""
    ids = np.random.default_rng(0).permutation(33)
    got = list(centre_crops(tiny_split, ids, CROP, batch=7, threads=1))
    assert [len(labels) for _, labels in got] == [7, 7, 7, 7, 5]
    pixels_N, labels_N = (np.concatenate(each) for each in zip(*got, strict=True))
    assert np.bincount(labels_N).tolist() == [11, 11, 11]
    for place in (0, 6, 7, 32):
        one = list(centre_crops(tiny_split, ids[place : place + 1], CROP, batch=1, threads=1))
        assert np.array_equal(one[0][0][0], pixels_N[place]) and one[0][1][0] == labels_N[place]


@pytest.mark.parametrize("kind", ["raw", "resized"])
def test_stores_give_the_crops_of_the_originals(
    photo_folder: Path, tiny_split: Split, tmp_path: Path, kind: Kind
) -> None:
    """Also at another size than the store's, where they are resized again, and so only about the same."""
    quality = 100 if kind == "resized" else None
    settings = ShardSettings(shard_size=9, store=kind, short_side=40, quality=quality)
    make_shards(photo_folder, tmp_path / "s", settings)
    stored, ids = open_split(tmp_path / "s"), np.arange(33)
    for size, tolerance in ((40, 0.0 if kind == "raw" else 2.0), (24, 8.0)):
        crops = [
            next(iter(centre_crops(each, ids, CentreCrop(size=size), batch=33, threads=1)))[0]
            for each in (tiny_split, stored)
        ]
        assert np.abs(crops[0].astype(float) - crops[1]).mean() <= tolerance


def test_an_image_that_cannot_be_decoded_or_has_no_label_is_left_out(
    tiny_split: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = with_broken_image(tiny_split.folder, tmp_path / "broken", 4)
    index = dataclasses.replace(
        tiny_split.index, label_bytes_N=np.where(np.arange(33) == 5, 0, tiny_split.index.label_bytes_N)
    )
    unlabelled = dataclasses.replace(tiny_split, index=index)
    ((images, labels),) = centre_crops(unlabelled, np.arange(9), CROP, batch=9, threads=1, labelled=False)
    assert len(images) == 9 and labels.tolist().index(-1) == 5
    ((_, whole),) = centre_crops(tiny_split, np.arange(9), CROP, batch=9, threads=1)
    for split, left, fault in ((broken, 4, "cannot be decoded ("), (unlabelled, 5, "has no label")):
        told: list[tuple[int, str]] = []

        def tell(place: int, line: str, told: list[tuple[int, str]] = told) -> None:
            told.append((place, line))

        for left_out in (say_left_out, tell):
            crops = centre_crops(split, np.arange(9), CROP, batch=4, threads=1, left_out=left_out)
            labels = np.concatenate([some for _, some in crops])
            assert labels.tolist() == np.delete(whole, left).tolist()
        ((place, line),) = told
        assert place == left and fault in line and "-000000.tar:" in line
        assert capsys.readouterr().err == f"turbomim: {line}: left out\n"
    with pytest.raises(UserError, match="every image was left out"):
        extract(
            centre_crops(broken, np.array([4]), CROP, batch=1, threads=1),
            lambda images: {"pixels": pixels(images)},
            torch.device("cpu"),
        )
