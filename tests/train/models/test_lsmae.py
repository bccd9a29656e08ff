"""LSMAE, which is MAE with mask units: the published pins, and the formula in float64 with such masks.

Planted, each seen to fail the test named: a unit's patches row by row, or units of one patch
(`test_49_whole_units_stay_in_the_published_order`); visible patches counted without regard to units
(`test_loss_and_every_gradient_equal_the_textbook_form`); a draw that depends on the number of patches
(`test_units_are_drawn_as_the_patches_of_an_image_of_half_the_side`).
"""

from __future__ import annotations

import pytest
import torch
from tests.train.models.test_mae import SMALL, assert_same_gradients, inputs, textbook_loss, with_model

from turbomim.benchmarks.step.textbook_mae import TextbookMAE
from turbomim.train.machine.predicted_memory import count_parameters
from turbomim.train.models.mae import MAE
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.dictionary import differences

# 6 x 6 patches in 3 x 3 units, two of which stay
UNITS = with_model(SMALL, mask_unit=2)
EPOCHS, IDS = torch.tensor([0, 0, 1, 7, 7]), torch.tensor([0, 5, 5, 8, 9])


@pytest.mark.parametrize(
    ("name", "total", "width", "decoder"),
    [
        ("lsmae-vit-b16-800e", 101_339_520, 768, (384, 8, 12)),
        ("lsmae-vit-l16-800e", 330_445_056, 1024, (512, 8, 16)),
        ("lsmae-pixmim-vit-b16-800e", 101_339_520, 768, (384, 8, 12)),
    ],
)
def test_recipes_have_the_published_sizes(
    name: str, total: int, width: int, decoder: tuple[int, int, int]
) -> None:
    config = recipe(name)
    model, optim = config.model, config.optim
    assert (config.data.size, model.patch, model.mask_unit, model.mask_ratio) == (448, 16, 2, 0.75)
    assert (config.patches, config.keep) == (784, 196)
    assert (model.decoder_width, model.decoder_depth, model.decoder_heads) == decoder
    assert (optim.epochs, optim.warmup_epochs) == (800, 40) and optim.lr == pytest.approx(2.4e-3)
    with torch.device("meta"):
        net = MAE(config)
    assert sum(p.numel() for p in net.parameters()) == total
    assert net.pos_embed.shape == (1, 785, width)
    counted = count_parameters(config)
    assert counted.trained + counted.fixed == total
    if width == 768:
        assert counted.trained == 100_435_200


def test_pixmim_changes_crop_and_target_alone() -> None:
    assert differences(recipe("lsmae-vit-b16-800e"), recipe("lsmae-pixmim-vit-b16-800e")) == [
        "data.crop: rrc -> src",
        "model.target: raw -> gaussian",
    ]
    assert recipe("lsmae-vit-b16-800e").data.rrc_scale == 0.2


def test_49_whole_units_stay_in_the_published_order() -> None:
    config = recipe("lsmae-vit-b16-800e")
    with torch.device("meta"):
        net = MAE(config)
    keep, mask = net.random_masking(EPOCHS, IDS)
    assert (keep.shape, mask.shape) == ((5, 196), (5, 588))
    assert torch.equal(torch.cat([keep, mask], 1).sort(1).values, torch.arange(784).expand(5, 784))
    for ids in (keep, mask):
        four = ids.reshape(5, -1, 4)
        corner = four[..., 0]
        assert bool((corner // 28 % 2 == 0).all()) and bool((corner % 28 % 2 == 0).all())
        # (row, column) of a unit's patches: (0, 0), (1, 0), (0, 1), (1, 1)
        assert torch.equal(four - corner[..., None], torch.tensor([0, 28, 1, 29]).expand_as(four))


def test_units_are_drawn_as_the_patches_of_an_image_of_half_the_side() -> None:
    """A draw knows units alone, not the patches in them; a unit of one patch is MAE's mask."""
    large, small = recipe("lsmae-vit-b16-800e"), recipe("mae-vit-b16-800e")
    with torch.device("meta"):
        ours, theirs, ones = MAE(large), MAE(small), MAE(with_model(small, mask_unit=1))
    for units, patches in zip(
        ours.random_masking(EPOCHS, IDS), theirs.random_masking(EPOCHS, IDS), strict=True
    ):
        corner = units[:, ::4]
        assert torch.equal(corner // 28 // 2 * 14 + corner % 28 // 2, patches)
    for one, patch in zip(ones.random_masking(EPOCHS, IDS), theirs.random_masking(EPOCHS, IDS), strict=True):
        assert torch.equal(one, patch)
    keep, _ = ours.random_masking(EPOCHS, IDS)
    assert len({tuple(row) for row in keep.tolist()}) == 5, "sample and epoch decide"


@pytest.mark.parametrize(
    "target", ["raw", "gaussian", "ideal"], ids=["lsmae", "lsmae with pixmim", "with published pixmim"]
)
def test_loss_and_every_gradient_equal_the_textbook_form(target: str) -> None:
    config = with_model(UNITS, target=target)
    images, _, _ = inputs(config)
    fast, book = MAE(config), TextbookMAE(config)
    book.load_state_dict(fast.state_dict())
    book.double()
    keep, mask = fast.random_masking(EPOCHS, IDS)
    assert keep.shape == (5, 8)
    ours = fast(images, EPOCHS, IDS)
    theirs = textbook_loss(book, images, keep, mask, config)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    torch.autograd.backward([ours, theirs])
    assert assert_same_gradients(fast, dict(book.named_parameters()))


def test_the_order_of_the_patches_in_a_mask_is_of_no_matter() -> None:
    net = MAE(UNITS)
    images, _, _ = inputs(UNITS)
    keep, mask = net.random_masking(EPOCHS, IDS)
    with torch.no_grad():
        loss, other = net(images, EPOCHS, IDS), net(images, EPOCHS, IDS, keep.flip(1), mask.roll(5, 1))
        moved = net(images, EPOCHS, IDS, keep.roll(1, 0), mask.roll(1, 0))
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)
    assert abs(float(moved - loss)) > 1e-4
