"""Pictures of a model whose predictions are known: perfect ones are the target, however it is normalised.

Planted, each seen to fail the test named: predictions of windows drawn as they are, statistics of patches
for windows (`test_a_perfect_prediction_is_drawn_as_the_target`); true statistics in the fourth column
(`test_the_fourth_column_borrows_nothing`); the variance of patches interpolated in place of the second
moment (`test_what_visible_patches_tell_is_near_the_truth`); a caption of patches for windows
(`test_the_caption_says_what_was_borrowed`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.runs import config_for, quiet
from torch import Tensor

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.system.errors import UsageError
from turbomim.pipeline.tars.split import Split
from turbomim.train.models.methods import make_model
from turbomim.train.pictures.reconstruction import draw_reconstructions, explain_pictures, reconstruct
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.recipes.title import method_text
from turbomim.train.settings.config import Config, DataConfig
from turbomim.train.settings.model import ModelConfig

PHOTOGRAPH, MASKED, TRUE, NEAR, TARGET = range(5)
SMALL = Config(
    data=DataConfig(size=48),
    model=ModelConfig(
        method="simmim-swinv2", patch=4, width=16, heads=2, stages="1,1", window=3, mask_ratio=0.6,
        mask_unit=2, norm_pix=False, norm_window=7, radius=8.5,
    ),
)  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "windows": {},
    "low-passed": {"target": "gaussian"},
    "patches": {"norm_window": 0, "norm_pix": True},
    "pixels": {"norm_window": 0},
}


def of_kind(kind: str) -> Config:
    return dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, **KINDS[kind]))


def batch_of(images_BHWC: Tensor) -> Batch:
    ids = torch.arange(len(images_BHWC))
    return Batch(images_BHWC=images_BHWC, labels_B=ids, ids_B=ids, epochs_B=ids * 0, position=0)


def noise(seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 48, 48, 3), generator=g, dtype=torch.uint8)


def drawn(config: Config, images_BHWC: Tensor, prediction: Tensor | None = None) -> NDArray[np.float32]:
    """Pictures (B, 5, H, W, 3) of a model that predicts this, or else what it is to predict."""
    model = make_model(config)
    batch = batch_of(images_BHWC)
    keep, mask = model.random_masking(batch.epochs_B, batch.ids_B)
    _, wanted = model.patchify(images_BHWC, keep, mask)
    told = wanted if prediction is None else prediction.expand_as(wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward_encoder", lambda model, *_: told)
        patch.setattr(type(model), "forward_decoder", lambda model, latent, *_: latent)
        rows = reconstruct(model, batch, config)
    return np.stack([row.pictures for row in rows])


def hidden(pictures: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels (B, H, W) of masked patches."""
    found: NDArray[np.bool_] = (pictures[:, PHOTOGRAPH] != pictures[:, MASKED]).any(-1)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_is_drawn_as_the_target(kind: str) -> None:
    pictures = drawn(of_kind(kind), noise())
    masked = hidden(pictures)
    assert 0.5 < masked.mean() < 0.7
    np.testing.assert_allclose(pictures[:, TRUE][masked], pictures[:, TARGET][masked], atol=1e-4)
    for column in (TRUE, NEAR):
        assert np.array_equal(pictures[:, column][~masked], pictures[:, PHOTOGRAPH][~masked]), column
    same = np.array_equal(pictures[:, TRUE], pictures[:, NEAR])
    assert same == (kind == "pixels")


@pytest.mark.parametrize("kind", ["windows", "patches"])
def test_the_fourth_column_borrows_nothing(kind: str) -> None:
    """Other pixels behind the mask move the third column alone."""
    config, images = of_kind(kind), noise()
    one = drawn(config, images, torch.tensor(0.5))
    other = torch.where(torch.from_numpy(hidden(one))[..., None], noise(1) // 4, images)
    two = drawn(config, other, torch.tensor(0.5))
    assert np.array_equal(one[:, NEAR], two[:, NEAR])
    assert np.abs(one[:, TRUE] - two[:, TRUE]).max() > 0.1


def test_what_visible_patches_tell_is_near_the_truth() -> None:
    """Squares of 4 pixels, one a patch: flat within, of much variance between them."""
    g = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 2, (2, 12, 12, 3), generator=g) * 100 + 80
    images = squares.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    pictures = drawn(SMALL, images)
    masked = hidden(pictures)
    spread = [float(pictures[:, column][masked].std()) for column in (NEAR, TARGET)]
    assert 0.7 < spread[0] / spread[1] < 1.4, spread


@pytest.mark.parametrize(
    ("kind", "normalised", "borrowed"),
    [
        ("windows", "pixels normalised by mean and variance of the 7 x 7 around each", "true window's"),
        ("patches", "patches normalised by their own mean and variance", "true patch's"),
    ],
)
def test_the_caption_says_what_was_borrowed(
    tiny_split: Split, kind: str, normalised: str, borrowed: str
) -> None:
    text = explain_pictures(of_kind(kind), tiny_split.manifest, "demo")
    assert text.startswith(f"demo ({method_text(of_kind(kind))}). Split ")
    assert normalised in text and f"the {borrowed} mean and variance" in text
    assert "though they are behind the mask" in text and "nothing is borrowed" in text
    assert "Predictions are pixels" in explain_pictures(of_kind("pixels"), tiny_split.manifest, "")


def test_pictures_that_cannot_be_drawn_are_refused(tiny_split: Split, tmp_path: Path) -> None:
    pretrain(config_for(tiny_split.folder, tmp_path, optim={"epochs": 1}), console=quiet())
    run = tmp_path / "r"
    for images, message in ((0, "must be 1 to 64"), (65, "must be 1 to 64"), (34, "has only 33 samples")):
        with pytest.raises(UsageError, match=f"--images {images}: .*{message}"):
            draw_reconstructions(run, images=images)
    for out in (tmp_path / "x.txt", tmp_path):
        with pytest.raises(UsageError, match=r"--out .*: must be a file whose name ends in .png"):
            draw_reconstructions(run, out=out)
    assert draw_reconstructions(run, images=2, out=tmp_path / "x.PNG").exists()
