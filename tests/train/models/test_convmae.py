"""ConvMAE and FastConvMAE against the dense form of the benchmarks, in float64, and the published pins.

Planted, each seen to fail the test named.  `test_loss_and_every_gradient_equal_the_dense_form`: the fusion
after the final norm; an eps of 1e-6 in an embedding's or a block's norm; a strided weight transposed; ones in
the masked cells; no positions in stage 3; stage 2 at the places of stage 1; a quarter taken twice; images
repeated in another order than masks.  `test_places_are_the_upsampled_mask`: cells column by column.
`test_features_…`: with the fusion.  `test_parameters_…`: a fusion left in the encoder.
`test_initialisation`: no Xavier in patch_embed3; depthwise weights drawn by torch's own generator.
`test_fast_masks_…`: quarters rolled the other way.  `test_masked_pixels_…`: masked patches read.
`test_operations_…`: all of MAE after the patches counted once for four masks.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.train.models.test_mae import (
    assert_compiles,
    assert_same_gradients,
    inputs,
    textbook_loss,
    with_model,
)
from torch import Tensor

from turbomim.benchmarks.step.textbook_convmae import TextbookConvMAE, upsampled
from turbomim.benchmarks.step.textbook_mae import normalised
from turbomim.kernels.masking import complementary_masks
from turbomim.pipeline.system.errors import UsageError
from turbomim.train.models.convmae import ConvMAE, places
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config, DataConfig, RunConfig, StepConfig
from turbomim.train.settings.model import ModelConfig

SMALL = Config(
    data=DataConfig(size=48),
    model=ModelConfig(
        method="convmae",
        conv_widths="8,12",
        conv_depths="2,1",
        width=24,
        depth=2,
        heads=2,
        decoder_width=16,
        decoder_depth=2,
        decoder_heads=2,
        radius=8.5,
        # of 9 patches 4 are visible, so that some are neighbours
        mask_ratio=0.5,
    ),
    run=RunConfig(seed=3),
)


# of 16 patches 4 are visible, in four ways
FAST = with_model(
    dataclasses.replace(SMALL, data=DataConfig(size=64)),
    mask_ratio=0.75,
    complementary=True,
    conv_depths="2,2",
)
# what makes an MAE of a ConvMAE
PLAIN = {"method": "mae", "conv_widths": ModelConfig().conv_widths, "conv_depths": ModelConfig().conv_depths}


def pair(config: Config) -> tuple[ConvMAE, TextbookConvMAE]:
    """The model with numbers that hide nothing, and the dense form in float64."""
    fast, book = ConvMAE(config), TextbookConvMAE(config)
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in fast.named_parameters():
            # away from the initial zeros and ones
            if p.ndim == 1:
                p.add_(0.3 * torch.rand(p.shape, generator=g))
            # norms of so small numbers tell an eps of 1e-5 from 1e-6
            if name.startswith("patch_embed"):
                p.mul_(0.05)
    book.load_state_dict(fast.state_dict())
    return fast, book.double()


def ids(batch: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(batch, dtype=torch.long), torch.arange(batch)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        with_model(SMALL, target="gaussian", norm_pix=False),
        FAST,
        dataclasses.replace(SMALL, step=StepConfig(recompute=True)),
    ],
    ids=["convmae", "gaussian-pixels", "fast", "recompute"],
)
def test_loss_and_every_gradient_equal_the_dense_form(config: Config) -> None:
    images, keep, mask = inputs(config)
    fast, book = pair(config)
    ours = fast(images, *ids(5), keep, mask)
    theirs = textbook_loss(book, images, keep, mask, config)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    torch.autograd.backward([ours, theirs])
    trained = assert_same_gradients(fast, dict(book.named_parameters()))
    assert {"pos_embed", "decoder_pos_embed"} == dict(fast.named_parameters()).keys() - set(trained)


def test_fast_masks_are_four_and_keep_every_patch_once() -> None:
    _, keep, mask = inputs(FAST)
    keeps, masks = complementary_masks(keep, mask)
    assert (keeps.shape, masks.shape) == ((20, 4), (20, 12))
    assert torch.equal(keeps[:5], keep) and torch.equal(masks[:5], mask)
    every = torch.arange(16).expand(5, 16)
    assert torch.equal(torch.cat(keeps.chunk(4), 1).sort(1).values, every)
    assert torch.equal(torch.cat([keeps, masks], 1).sort(1).values, every.repeat(4, 1))
    # the next quarter of the one permutation
    assert torch.equal(keeps[5:10], mask[:, :4])
    # at the published size
    order = torch.stack([torch.randperm(196, generator=torch.Generator().manual_seed(n)) for n in range(4)])
    keeps, masks = complementary_masks(order[:, :49], order[:, 49:])
    assert (keeps.shape, masks.shape) == ((16, 49), (16, 147))
    assert torch.equal(torch.cat(keeps.chunk(4), 1).sort(1).values, torch.arange(196).expand(4, 196))
    with pytest.raises(ValueError, match="keep a quarter"):
        complementary_masks(keep, mask[:, 1:])


def test_fast_loss_is_the_mean_over_its_four_masks_for_mae_too() -> None:
    images, keep, mask = inputs(FAST, 3)
    for config in (FAST, with_model(FAST, **PLAIN)):
        model = make_model(config)
        plain = make_model(with_model(config, complementary=False))
        quarters = zip(*(four.chunk(4) for four in complementary_masks(keep, mask)), strict=True)
        with torch.no_grad():
            alone = [float(plain(images, *ids(3), *quarter)) for quarter in quarters]
            together = float(model(images, *ids(3), keep, mask))
        assert len(alone) == 4 and len(set(alone)) == 4
        assert together == pytest.approx(sum(alone) / 4, rel=1e-6)


def test_masked_pixels_do_not_reach_the_latent() -> None:
    images, keep, mask = inputs(SMALL)
    model = ConvMAE(SMALL)

    def latent(pictures: Tensor) -> Tensor:
        visible, _ = model.patchify(pictures, keep, mask)
        return model.forward_encoder(visible, keep)

    hidden = torch.ones(5, 9, dtype=torch.bool).scatter(1, keep, False).view(5, 1, 3, 3)
    pixels = upsampled(hidden, 16).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    with torch.no_grad():
        before = latent(images)
        assert before.shape == (5, 4, 24)
        assert torch.equal(before, latent(torch.where(pixels, 255 - images, images).contiguous()))
        assert not torch.equal(before, latent(torch.where(pixels, images, 255 - images).contiguous()))


@pytest.mark.parametrize("side", [4, 2])
def test_places_are_the_upsampled_mask(side: int) -> None:
    _, keep, _ = inputs(SMALL)
    visible = torch.zeros(5, 9, dtype=torch.long).scatter(1, keep, 1).view(5, 1, 3, 3)
    found = places(keep, 3, side)
    assert found.shape == (5, 4 * side * side)
    cells = torch.zeros(5, (3 * side) ** 2, dtype=torch.long).scatter_add(1, found, torch.ones_like(found))
    assert torch.equal(cells, upsampled(visible, side).flatten(1))
    # patch 5 of 3 x 3 is in row 1, column 2; its cells row by row
    row, column = torch.meshgrid(torch.arange(side) + side, torch.arange(side) + 2 * side, indexing="ij")
    assert torch.equal(places(torch.tensor([[5]]), 3, side)[0], (row * 3 * side + column).flatten())


def test_features_are_the_fine_tuned_models_without_fusion() -> None:
    images, _, _ = inputs(SMALL)
    fast, book = pair(SMALL)
    with torch.no_grad():
        ours, theirs = fast.features(images), book.features(normalised(images, torch.float64))
        assert ours.shape == (5, 9, 24)
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
        fast.stage1_output_decode.weight.zero_()
        assert torch.equal(ours, fast.features(images)), "no fusion"


def test_parameters_are_as_many_as_published() -> None:
    with torch.device("meta"):
        model = ConvMAE(recipe("convmae-b-1600e"))
    named = dict(model.named_parameters())
    assert sum(p.numel() for p in named.values()) == 115_041_408
    assert sum(p.numel() for p in named.values() if p.requires_grad) == 114_790_528
    encoder = {name: p for name, p in named.items() if not name.startswith(model.decoder_names)}
    head = 768 * 1000 + 1000
    assert sum(p.numel() for p in encoder.values()) + head == 85_374_824, "the published fine-tuned model"
    parts = {name.split(".")[0] for name in named}
    assert parts == {
        "patch_embed1", "patch_embed2", "patch_embed3", "patch_embed4", "blocks1", "blocks2", "blocks3",
        "stage1_output_decode", "stage2_output_decode", "norm", "pos_embed", "mask_token",
        "decoder_embed", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred",
    }  # fmt: skip
    block = {name.removeprefix("blocks1.1.") for name in named if name.startswith("blocks1.1.")}
    layers = ("norm1", "conv1", "attn", "conv2", "norm2", "mlp.fc1", "mlp.fc2")
    assert block == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert named["blocks1.1.attn.weight"].shape == (256, 1, 5, 5)
    assert named["blocks2.0.mlp.fc1.weight"].shape == (1536, 384, 1, 1)
    assert named["stage1_output_decode.weight"].shape == (768, 256, 4, 4)
    assert named["pos_embed"].shape == (1, 196, 768)


def test_initialisation() -> None:
    config = with_model(SMALL, conv_widths="64,96", width=96)
    state, again = ConvMAE(config).state_dict(), ConvMAE(config).state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state), "drawn from the run's seed"
    for name, value in state.items():
        fan_in = value[0].numel() if value.ndim > 1 else 0
        largest = float(value.abs().max())
        layer = name.rpartition(".")[0]
        if "norm" in layer:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight")))), name
        elif value.ndim == 4 and layer != "patch_embed3.proj":
            # torch's default
            bound = fan_in**-0.5
            assert 0.9 * bound < largest <= bound, name
            assert 0.5 * bound < float(state[f"{layer}.bias"].abs().max()) <= bound, name
        elif value.ndim in (2, 4):
            bound = (6 / (value.shape[0] + fan_in)) ** 0.5
            assert 0.9 * bound < largest <= bound, name
    assert float(state["patch_embed4.bias"].abs().max()) == 0
    assert 0.01 < float(state["mask_token"].std()) < 0.03


def test_compiled_step_equals_eager() -> None:
    config = with_model(FAST, conv_depths="1,1", depth=1, decoder_depth=1)
    images, _, _ = inputs(config)
    assert_compiles(ConvMAE(config), ConvMAE(config), images, *ids(5))


def test_operations_of_complementary_masks_are_four_times_maes_after_the_patches() -> None:
    config = with_model(FAST, **PLAIN)
    once, four = (MAE.flops_per_image(with_model(config, complementary=c)) for c in (False, True))
    assert four - once == 3 * (once - 3 * 2 * 16 * 768 * 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 8}, "model.patch = 8: must be 16 pixels for convmae"),
        ({"conv_widths": "8"}, "model.conv_widths = '8': must be two whole numbers"),
        ({"conv_depths": "2,0"}, "model.conv_depths = '2,0': must be two whole numbers"),
        ({"complementary": True}, "model.complementary = true: must be false, unless a quarter of the 9"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        with_model(SMALL, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_recipes() -> None:
    full, fast, pixmim = (
        recipe(name) for name in ("convmae-b-1600e", "fastconvmae-b-50e", "convmae-pixmim-b-800e")
    )
    assert full.optim.lr == pytest.approx(1.8e-3) and full.optim.global_batch == 3072
    assert (full.optim.epochs, full.optim.warmup_epochs, full.optim.weight_decay) == (1600, 40, 0.05)
    assert fast.optim.lr == pytest.approx(1.2e-3) and fast.model.complementary
    assert (fast.optim.epochs, fast.optim.warmup_epochs, fast.optim.global_batch) == (50, 10, 512)
    assert (pixmim.data.crop, pixmim.model.target, full.data.crop) == ("src", "gaussian", "rrc")
    assert full.keep == 49
