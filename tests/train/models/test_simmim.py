"""SimMIM with a ViT against the published formula written out in float64, timm's Beit, and the pins.

Planted, each seen to fail the test named: the head's channels read as (column, row, colour), or the bias of
relative positions left out (`test_loss_and_every_gradient_equal_the_published_form`); projections divided by
sqrt(l) instead of sqrt(2 l), or weights drawn from the whole normal distribution
(`test_initial_weights_are_the_published_ones`); a loss of twice the size
(`test_an_error_that_is_equal_everywhere_is_the_loss`).
"""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from tests.exported import stir
from tests.train.models import test_mae
from tests.train.models.test_mae import inputs, with_model
from timm.models.beit import Beit
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from turbomim.pipeline.system.errors import UserError
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import flops_per_image, make_model
from turbomim.train.models.simmim import SimMIM
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config, DataConfig, RunConfig
from turbomim.train.settings.model import ModelConfig

SMALL = Config(
    data=DataConfig(size=48),
    model=ModelConfig(
        method="simmim", patch=8, width=48, depth=2, heads=4, mask_ratio=0.6, mask_unit=2, norm_pix=False,
        radius=8.5,
    ),
    run=RunConfig(seed=3),
)  # fmt: skip


def stirred(config: Config) -> SimMIM:
    """A model none of whose weights is at its initial value, zero for some."""
    net = stir(make_model(config))
    assert isinstance(net, SimMIM)
    return net


def doubled(net: SimMIM) -> dict[str, Tensor]:
    return {name: p.detach().double().requires_grad_() for name, p in net.named_parameters()}


def normalised(images_BHWC: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images_BHWC.double() / 255 - mean) / std).permute(0, 3, 1, 2)


def mask_of(ids_mask_BM: Tensor, config: Config) -> Tensor:
    """(B, grid, grid) float64, 1 = removed."""
    mask = torch.zeros(len(ids_mask_BM), config.patches, dtype=torch.float64)
    return mask.scatter(1, ids_mask_BM, 1.0).reshape(-1, config.grid, config.grid)


def wanted(images_BHWC: Tensor, config: Config) -> Tensor:
    """The image that patches are to be predicted of, (B, 3, S, S) float64."""
    x, model, size = normalised(images_BHWC), config.model, config.data.size
    if model.target == "gaussian":
        sigma = size / (2 * torch.pi * model.radius)
        taps = 2 * int(-(-4 * sigma // 1)) + 1
        x = gaussian_blur(x, [taps, taps], [sigma, sigma])
    if model.norm_pix:
        side = model.patch
        cells = x.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
        mean, var = cells.mean((3, 4, 5), keepdim=True), cells.var((3, 4, 5), keepdim=True)
        cells = (cells - mean) / (var + 1e-6).sqrt()
        x = cells.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
    return x


def published_loss(rec_BCHW: Tensor, target_BCHW: Tensor, mask_BGG: Tensor, patch: int) -> Tensor:
    mask = mask_BGG.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    return ((target_BCHW - rec_BCHW).abs() * mask).sum() / (mask.sum() + 1e-5) / 3


def relative_positions(grid: int) -> Tensor:
    """Rows of the shared table for each pair of tokens, the class token first."""
    count = (2 * grid - 1) ** 2 + 3
    index = torch.empty(1 + grid**2, 1 + grid**2, dtype=torch.long)
    for i in range(grid**2):
        for j in range(grid**2):
            down, right = i // grid - j // grid, i % grid - j % grid
            index[1 + i, 1 + j] = (down + grid - 1) * (2 * grid - 1) + right + grid - 1
    index[0, :], index[:, 0], index[0, 0] = count - 3, count - 2, count - 1
    return index


def published_vit(p: dict[str, Tensor], images: Tensor, ids_mask: Tensor, config: Config) -> Tensor:
    model, mask = config.model, mask_of(ids_mask, config)
    width, heads = model.width, model.heads
    x = functional.conv2d(
        normalised(images), p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=model.patch
    )
    x = x.flatten(2).transpose(1, 2)
    w = mask.flatten(1)[..., None]
    x = x * (1 - w) + p["mask_token"] * w
    x = torch.cat([p["cls_token"].expand(len(x), -1, -1), x], 1)
    table = p["rel_pos_bias.relative_position_bias_table"]
    bias = table[relative_positions(config.grid)].permute(2, 0, 1)
    for n in range(model.depth):
        b = f"blocks.{n}."
        y = functional.layer_norm(x, (width,), p[b + "norm1.weight"], p[b + "norm1.bias"], 1e-6)
        q_bias, v_bias = p[b + "attn.q_bias"], p[b + "attn.v_bias"]
        shifts = q_bias, torch.zeros_like(q_bias), v_bias
        q, k, v = (
            (y @ matrix.T + shift).reshape(*y.shape[:2], heads, -1).transpose(1, 2)
            for matrix, shift in zip(p[b + "attn.qkv.weight"].chunk(3), shifts, strict=True)
        )
        seen = ((q @ k.transpose(2, 3)) / (width // heads) ** 0.5 + bias).softmax(-1) @ v
        y = seen.transpose(1, 2).flatten(2) @ p[b + "attn.proj.weight"].T + p[b + "attn.proj.bias"]
        x = x + p[b + "gamma_1"] * y
        y = functional.layer_norm(x, (width,), p[b + "norm2.weight"], p[b + "norm2.bias"], 1e-6)
        y = functional.gelu(y @ p[b + "mlp.fc1.weight"].T + p[b + "mlp.fc1.bias"])
        x = x + p[b + "gamma_2"] * (y @ p[b + "mlp.fc2.weight"].T + p[b + "mlp.fc2.bias"])
    x = functional.layer_norm(x, (width,), p["norm.weight"], p["norm.bias"], 1e-6)
    x = x[:, 1:].transpose(1, 2).reshape(len(x), width, config.grid, config.grid)
    rec = functional.pixel_shuffle(
        functional.conv2d(x, p["decoder.0.weight"], p["decoder.0.bias"]), model.patch
    )
    return published_loss(rec, wanted(images, config), mask, model.patch)


def assert_same_gradients(net: SimMIM, p: dict[str, Tensor]) -> None:
    """Of every parameter: all are trained."""
    assert test_mae.assert_same_gradients(net, p) == [name for name, _ in net.named_parameters()]


@pytest.mark.parametrize(
    ("target", "norm_pix"), [("raw", False), ("gaussian", False), ("raw", True)], ids=["raw", "low", "norm"]
)
def test_loss_and_every_gradient_equal_the_published_form(target: str, norm_pix: bool) -> None:
    config = with_model(SMALL, target=target, norm_pix=norm_pix)
    images, keep, mask = inputs(config, 3)
    net = stirred(config)
    p = doubled(net)
    ours = net(images, torch.zeros(3, dtype=torch.long), torch.arange(3), keep, mask)
    theirs = published_vit(p, images, mask, config)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    torch.autograd.backward([ours, theirs])
    assert_same_gradients(net, p)


def test_ideal_target_is_that_of_mae() -> None:
    config = with_model(SMALL, target="ideal")
    images, keep, mask = inputs(config, 3)
    _, target = make_model(config).patchify(images, keep, mask)
    _, expected = MAE(with_model(config, method="mae", decoder_heads=2)).patchify(images, keep, mask)
    assert torch.equal(target, expected)


def test_prediction_does_not_see_masked_pixels() -> None:
    images, keep, mask = inputs(SMALL, 3)
    net = stirred(SMALL)
    outputs = []
    for fill in (0, 255):
        hidden = mask_of(mask, SMALL).bool().repeat_interleave(8, 1).repeat_interleave(8, 2)
        changed = torch.where(hidden[..., None], fill, images)
        visible, _ = net.patchify(changed.to(torch.uint8), keep, mask)
        with torch.no_grad():
            outputs.append(net.forward_decoder(net.forward_encoder(visible, keep), keep, mask))
    assert torch.equal(outputs[0], outputs[1])


def test_features_are_those_of_timms_beit() -> None:
    """Every name is timm's too: the encoder loads strictly."""
    net = stirred(SMALL).eval()
    beit = timm.create_model(
        "beit_base_patch16_224", img_size=48, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=0,
        init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=False, use_shared_rel_pos_bias=True,
        global_pool="token",
    )  # fmt: skip
    names = {n: v for n, v in net.state_dict().items() if not n.startswith(net.decoder_names)}
    assert isinstance(beit, Beit)
    beit.load_state_dict(names, strict=True)
    images, _, _ = inputs(SMALL, 3)
    with torch.no_grad():
        ours, theirs = net.features(images), beit.eval().forward_features(normalised(images).float())
    assert ours.shape == (3, 37, 48)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def meta_model(config: Config) -> SimMIM:
    """The model without storage or weights."""
    with torch.device("meta"):
        net = make_model(config)
    assert isinstance(net, SimMIM)
    return net


def test_parameters_are_as_many_as_published() -> None:
    config = recipe("simmim-vit-b16-800e")
    params = dict(meta_model(config).named_parameters())
    assert sum(p.numel() for p in params.values()) == 86_256_720
    head = sum(p.numel() for n, p in params.items() if n.startswith("decoder."))
    # the published encoder holds the mask token
    assert sum(p.numel() for p in params.values()) - head == 85_666_128
    assert params["rel_pos_bias.relative_position_bias_table"].shape == (732, 12)
    assert not [name for name in params if "pos_embed" in name]
    assert params["decoder.0.weight"].shape == (768, 768, 1, 1)


def test_initial_weights_are_the_published_ones() -> None:
    config = with_model(SMALL, width=96)
    net, again, other = (
        make_model(dataclasses.replace(config, run=RunConfig(seed=seed))) for seed in (3, 3, 4)
    )
    for (name, a), b in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    state = net.state_dict()
    for name in ("mask_token", "cls_token", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"):
        assert not torch.equal(state[name], other.state_dict()[name])
        assert float(state[name].abs().max()) <= 0.02, name
    assert abs(float(state["blocks.1.mlp.fc1.weight"].std()) - 0.0108) < 2e-4
    for number in (1, 2):
        for name in ("attn.proj", "mlp.fc2"):
            most = float(state[f"blocks.{number - 1}.{name}.weight"].abs().max())
            assert 0.98 * 0.02 < most * (2 * number) ** 0.5 <= 0.02 + 1e-8, (number, name)
        for name in ("gamma_1", "gamma_2"):
            assert torch.equal(state[f"blocks.{number - 1}.{name}"], torch.full((96,), 0.1))
    for name, value in state.items():
        if name.endswith(("bias", "_bias", "_table")) and not name.startswith("decoder"):
            assert not value.any() or "norm" in name, name
    head = state["decoder.0.weight"]
    assert 0.98 * 96**-0.5 < float(head.abs().max()) <= 96**-0.5
    assert 0.9 * 96**-0.5 < float(state["decoder.0.bias"].abs().max()) <= 96**-0.5


@pytest.mark.parametrize(
    ("name", "units", "kept", "few"),
    [
        ("simmim-swin-b-100e", 36, 14, {"stages": "1,1,1,1"}),
        ("simmim-vit-b16-800e", 49, 19, {"depth": 1}),
    ],
)
def test_masks_are_whole_squares_of_32_pixels(
    name: str, units: int, kept: int, few: dict[str, object]
) -> None:
    """22 of 36 and 30 of 49 are removed."""
    config = recipe(name)
    area = config.model.mask_unit**2
    assert (config.patches, config.keep) == (units * area, kept * area)
    assert config.model.patch * config.model.mask_unit == 32
    small = with_model(config, width=16, heads=1, **few)
    keep, mask = make_model(small).random_masking(torch.zeros(2, dtype=torch.long), torch.arange(2))
    assert mask.shape == (2, (units - kept) * area)
    squares = mask_of(mask, config).unfold(1, config.model.mask_unit, config.model.mask_unit)
    squares = squares.unfold(2, config.model.mask_unit, config.model.mask_unit).mean((3, 4))
    assert set(squares.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(torch.cat([keep, mask], 1).sort(1).values[0], torch.arange(config.patches))


def test_recipes_are_as_published() -> None:
    vit, swin, large, v2 = (
        recipe(f"simmim-{name}") for name in ("vit-b16-800e", "swin-b-100e", "swin-l-800e", "swinv2-b-800e")
    )
    for config in (vit, swin, large, v2):
        optim, data = config.optim, config.data
        assert (optim.beta1, optim.beta2, optim.eps, optim.weight_decay) == (0.9, 0.999, 1e-8, 0.05)
        assert (optim.clip_grad, optim.global_batch, optim.lr_batch) == (5.0, 2048, 512)
        assert (data.crop, data.rrc_scale, data.interpolation) == ("rrc", 0.67, "bilinear")
        assert (config.model.mask_ratio, config.model.norm_pix) == (0.6, False)
        assert optim.warmup_epochs == 10
    assert [c.data.size for c in (vit, swin, large, v2)] == [224, 192, 192, 192]
    assert [c.model.norm_window for c in (vit, swin, large, v2)] == [0, 0, 0, 47]
    assert [c.model.window for c in (swin, large, v2)] == [6, 12, 12]
    assert swin.optim.lr == pytest.approx(8e-4)
    assert (swin.optim.epochs, swin.optim.schedule) == (100, "cosine")
    for config in (vit, large, v2):
        optim = config.optim
        assert (optim.epochs, optim.schedule, optim.lr_drop_epochs) == (800, "step", 700)
        assert optim.lr == pytest.approx(4e-4)


def test_an_error_that_is_equal_everywhere_is_the_loss() -> None:
    net = make_model(SMALL)
    target = torch.randn(2, 5, 192)
    assert float(net.forward_loss(target + 0.25, target)) == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("recompute", [False, True], ids=["plain", "recomputed"])
def test_compiled_step_equals_eager(recompute: bool) -> None:
    config = with_model(SMALL, depth=1, target="gaussian")
    images, _, _ = inputs(config, 3)
    epochs, ids = torch.zeros(3, dtype=torch.long), torch.arange(3) + 10
    eager = make_model(config)
    step = dataclasses.replace(config.step, recompute=recompute)
    compiled = make_model(dataclasses.replace(config, step=step))
    # traces forward and backward as inductor's does, in a few seconds
    test_mae.assert_compiles(eager, compiled, images, epochs, ids, backend="aot_eager")


def test_flops_of_vit_b() -> None:
    """Every one of the 197 tokens goes through 12 blocks; backward twice the forward."""
    blocks = 12 * (24 * 197 * 768**2 + 4 * 197**2 * 768)
    assert flops_per_image(recipe("simmim-vit-b16-800e")) == 3 * (blocks + 4 * 196 * 768 * 768)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_window": 46}, "model.norm_window"),
        ({"norm_window": 47, "norm_pix": True}, "model.norm_window"),
        ({"norm_window": 47, "method": "mae"}, "model.norm_window"),
        ({"stages": "2,,2"}, "model.stages"),
        ({"method": "simmim-swin", "depth": 12, "stages": "1,1,1"}, "data.size"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_model(SMALL, **changes)
