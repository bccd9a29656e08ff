"""SimMIM with Swin and SwinV2: timm's layers between what the published form has around them, and the pins.

Planted, each seen to fail the test named: patches of a cell of the head taken by columns, the embedding's
norm left out, or a variance over n in the windows of targets
(`test_loss_and_every_gradient_equal_the_published_form`); no floor under that variance
(`test_a_flat_image_has_small_window_targets`); windows of 7 whatever the settings say
(`test_window_attention_is_what_the_paper_says`); as many heads in every stage
(`test_parameters_and_windows_are_the_published_ones`).
"""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from tests.train.models.test_mae import assert_compiles, inputs, with_model
from tests.train.models.test_simmim import (
    assert_same_gradients,
    mask_of,
    meta_model,
    normalised,
    published_loss,
    stirred,
    wanted,
)
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from torch import Tensor, nn
from torch.nn import functional

from turbomim.train.models.methods import flops_per_image, make_model
from turbomim.train.models.simmim import SimMIM
from turbomim.train.models.simmim_swin import SimMIMSwin
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config, DataConfig, RunConfig
from turbomim.train.settings.model import ModelConfig

# 12 x 12 patches of 4 pixels; one token of the second and last stage stands for 2 x 2
SMALL = Config(
    data=DataConfig(size=48),
    model=ModelConfig(
        method="simmim-swin", patch=4, width=16, heads=2, stages="2,2", window=3, mask_ratio=0.6,
        mask_unit=2, norm_pix=False, radius=8.5,
    ),
    run=RunConfig(seed=3),
)  # fmt: skip
SMALL_V2 = with_model(SMALL, method="simmim-swinv2")
BOTH = pytest.mark.parametrize("config", [SMALL, SMALL_V2], ids=["swin", "swinv2"])


def published_swin(net: SimMIM, images: Tensor, ids_mask: Tensor, target: Tensor, config: Config) -> Tensor:
    """`net` is in float64; its layers are timm's."""
    p, mask = dict(net.named_parameters()), mask_of(ids_mask, config)
    x = functional.conv2d(
        normalised(images), p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=4
    )
    norm = p["patch_embed.norm.weight"], p["patch_embed.norm.bias"]
    x = functional.layer_norm(x.permute(0, 2, 3, 1), (16,), *norm, 1e-5)
    x = x * (1 - mask[..., None]) + p["mask_token"] * mask[..., None]
    assert isinstance(net, SimMIMSwin) and isinstance(net.layers, nn.Sequential)
    for stage in net.layers:
        x = stage(x)
    x = functional.layer_norm(x, (32,), p["norm.weight"], p["norm.bias"], 1e-5).permute(0, 3, 1, 2)
    rec = functional.pixel_shuffle(functional.conv2d(x, p["decoder.0.weight"], p["decoder.0.bias"]), 8)
    return published_loss(rec, target, mask, 4)


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        (SMALL, {}),
        (SMALL, {"target": "gaussian"}),
        (SMALL, {"norm_pix": True}),
        (SMALL_V2, {}),
        (SMALL_V2, {"norm_window": 7}),
    ],
    ids=["swin", "low", "norm", "swinv2", "window"],
)
def test_loss_and_every_gradient_equal_the_published_form(base: Config, changes: dict[str, object]) -> None:
    config = with_model(base, **changes)
    images, keep, mask = inputs(config, 3)
    net = stirred(config)
    double = copy.deepcopy(net).double()
    target = wanted(images, config)
    if config.model.norm_window:
        target = slid(target, config.model.norm_window)
    ours = net(images, torch.zeros(3, dtype=torch.long), torch.arange(3), keep, mask)
    theirs = published_swin(double, images, mask, target, config)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    torch.autograd.backward([ours, theirs])
    assert_same_gradients(net, dict(double.named_parameters()))


def slid(image_BCSS: Tensor, window: int) -> Tensor:
    """Pixel by pixel: the slice around it, cut at the image's edges."""
    out, half = torch.empty_like(image_BCSS), window // 2
    for y in range(image_BCSS.shape[2]):
        for x in range(image_BCSS.shape[3]):
            near = image_BCSS[:, :, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
            mean, var = near.mean((2, 3)), near.var((2, 3))
            out[:, :, y, x] = (image_BCSS[:, :, y, x] - mean) / (var + 1e-6).sqrt()
    return out


def test_a_flat_image_has_small_window_targets() -> None:
    """No variance below zero, and what rounding leaves is not blown up."""
    config = with_model(SMALL_V2, norm_window=47)
    _, keep, mask = inputs(config, 3)
    images = torch.full((3, 48, 48, 3), 201, dtype=torch.uint8)
    _, target = make_model(config).patchify(images, keep, mask)
    assert float(target.abs().max()) < 0.01


def blocks_of(net: SimMIM) -> list[SwinTransformerBlock | SwinTransformerV2Block]:
    """All of them, in order."""
    blocks = []
    for block in net.blocks_to_split():
        assert isinstance(block, SwinTransformerBlock | SwinTransformerV2Block)
        blocks.append(block)
    return blocks


@BOTH
def test_window_attention_is_what_the_paper_says(config: Config) -> None:
    """The second block of the first stage, whose windows of 3 are shifted by 1, token by token."""
    blocks = blocks_of(stirred(config).double())
    assert len(blocks) == 4
    for stage, number, shift in ((0, 0, 0), (0, 1, 1), (1, 1, 1)):
        block = blocks[2 * stage + number]
        assert (block.window_size, block.shift_size) == ((3, 3), (shift, shift))
        side, width = 12 // 2**stage, 16 * 2**stage
        x = torch.randn(2, side, side, width, dtype=torch.float64)
        torch.testing.assert_close(block._attn(x), attention(block, x, shift), rtol=1e-9, atol=1e-9)


def attention(block: SwinTransformerBlock | SwinTransformerV2Block, x: Tensor, shift: int) -> Tensor:
    """Dense attention over all tokens, those of other windows left out; windows of 3."""
    p, side, heads = dict(block.attn.named_parameters()), x.shape[1], block.attn.num_heads
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    moved = (place - shift) % side
    window = moved // 3
    # rolled windows hold tokens from both ends of the image, which must not see each other
    part = (moved >= side - shift).long() if shift else torch.zeros_like(moved)
    alike = ((window[:, None] == window) & (part[:, None] == part)).all(2)
    away = moved[:, None] - moved
    rows = x.flatten(1, 2)
    if isinstance(block, SwinTransformerBlock):
        q, k, v = (rows @ p["qkv.weight"].T + p["qkv.bias"]).reshape(*rows.shape[:2], 3, heads, -1).unbind(2)
        near = ((away[..., 0] + 2) * 5 + away[..., 1] + 2).clamp(0, 24)
        bias = p["relative_position_bias_table"][near].permute(2, 0, 1)
        score = torch.einsum("bqad,bkad->baqk", q, k) / q.shape[-1] ** 0.5 + bias
    else:
        shifts = torch.cat([p["q_bias"], torch.zeros_like(p["q_bias"]), p["v_bias"]])
        q, k, v = (rows @ p["qkv.weight"].T + shifts).reshape(*rows.shape[:2], 3, heads, -1).unbind(2)
        # 8 at the window's far end, on a logarithmic scale; torch's float32 in timm's table
        apart = (away.float() / 2 * 8).clamp(-8, 8)
        apart = (apart.sign() * (apart.abs() + 1).log2() / math.log2(8)).double()
        hidden = (apart @ p["cpb_mlp.0.weight"].T + p["cpb_mlp.0.bias"]).relu()
        bias = 16 * (hidden @ p["cpb_mlp.2.weight"].T).sigmoid().permute(2, 0, 1)
        cosine = torch.einsum(
            "bqad,bkad->baqk", functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        )
        score = cosine * p["logit_scale"].clamp(max=math.log(100)).exp() + bias
    weight = score.masked_fill(~alike, -torch.inf).softmax(-1)
    seen = torch.einsum("baqk,bkad->bqad", weight, v).flatten(2)
    return (seen @ p["proj.weight"].T + p["proj.bias"]).reshape(x.shape)


@pytest.mark.parametrize(
    ("name", "encoder", "windows", "shifts"),
    [
        ("simmim-swin-b-100e", 86_725_304, [6, 6, 6, 6], [3, 3, 3, 0]),
        ("simmim-swin-l-800e", None, [12, 12, 12, 6], [6, 6, 0, 0]),
        ("simmim-swinv2-b-800e", None, [12, 12, 12, 6], [6, 6, 0, 0]),
    ],
)
def test_parameters_and_windows_are_the_published_ones(
    name: str, encoder: int | None, windows: list[int], shifts: list[int]
) -> None:
    config = recipe(name)
    net = meta_model(config)
    params = dict(net.named_parameters())
    if encoder is not None:
        assert sum(p.numel() for p in params.values()) == 89_874_104
        head = sum(p.numel() for n, p in params.items() if n.startswith("decoder."))
        # the published encoder holds the mask token
        assert sum(p.numel() for p in params.values()) - head == encoder
    blocks = blocks_of(net)
    width = [block.dim // config.model.width for block in blocks]
    assert width == [1] * 2 + [2] * 2 + [4] * 18 + [8] * 2
    even, odd = ([blocks[place + n] for place in (0, 2, 4, 22)] for n in (0, 1))
    assert [block.input_resolution for block in odd] == [(48, 48), (24, 24), (12, 12), (6, 6)]
    assert [block.window_size[0] for block in odd] == windows
    assert [block.shift_size[0] for block in odd] == shifts
    assert [block.shift_size[0] for block in even] == [0, 0, 0, 0]
    heads = config.model.heads
    assert [block.attn.num_heads for block in even] == [heads, 2 * heads, 4 * heads, 8 * heads]
    assert params["decoder.0.weight"].shape == (3 * 32**2, 8 * config.model.width, 1, 1)
    assert net.norm.eps == 1e-5


@BOTH
def test_features_are_those_of_timm(config: Config) -> None:
    """Every name is timm's too: the encoder loads strictly."""
    net = stirred(config).eval()
    transformer = SwinTransformer if config is SMALL else SwinTransformerV2
    encoder = transformer(
        img_size=48, patch_size=4, num_classes=0, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=3
    )
    names = {n: v for n, v in net.state_dict().items() if not n.startswith(net.decoder_names)}
    encoder.load_state_dict(names, strict=True)
    images, _, _ = inputs(config, 3)
    with torch.no_grad():
        theirs = encoder.eval().forward_features(normalised(images).float()).flatten(1, 2)
        ours = net.features(images)
    assert ours.shape == (3, 36, 32)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@BOTH
def test_initial_weights_are_the_published_ones(config: Config) -> None:
    nets = [make_model(dataclasses.replace(config, run=RunConfig(seed=seed))) for seed in (3, 3, 4)]
    state, again, other = (net.state_dict() for net in nets)
    assert isinstance(nets[0], SimMIMSwin)
    for name, value in state.items():
        assert torch.equal(value, again[name]), name
        constant = "norm" in name or "logit" in name or name.endswith("bias")
        if not constant or name in ("patch_embed.proj.bias", "decoder.0.bias"):
            assert not torch.equal(value, other[name]), name
        elif "norm" not in name and "logit" not in name:
            assert not value.any(), name
    assert abs(float(state["layers.1.blocks.0.mlp.fc1.weight"].std()) - 0.02) < 1e-3
    # not cut at one deviation, as the ViT's are
    assert float(state["layers.1.blocks.0.mlp.fc1.weight"].abs().max()) > 0.05
    for name, fan in (("decoder.0", 32), ("patch_embed.proj", 48)):
        assert 0.9 * fan**-0.5 < float(state[f"{name}.weight"].abs().max()) <= fan**-0.5
    if config is SMALL:
        assert abs(float(state["layers.0.blocks.1.attn.relative_position_bias_table"].std()) - 0.02) < 5e-3
    else:
        assert float(state["layers.0.blocks.1.attn.logit_scale"].flatten()[0]) == pytest.approx(math.log(10))
        assert not state["layers.0.blocks.1.norm1.weight"].any()


@BOTH
def test_compiled_step_equals_eager(config: Config) -> None:
    config = with_model(config, stages="2,1", **({} if config is SMALL else {"norm_window": 7}))
    images, _, _ = inputs(config, 3)
    epochs, ids = torch.zeros(3, dtype=torch.long), torch.arange(3) + 10
    eager = make_model(config)
    compiled = make_model(dataclasses.replace(config, step=dataclasses.replace(config.step, recompute=True)))
    # inductor agrees too, and compiles for more than a minute of a core
    assert_compiles(eager, compiled, images, epochs, ids, backend="aot_eager")


def test_flops_of_swin_b() -> None:
    """15.4 GFLOP at 224 pixels with windows of 7 are published (as multiply-adds), for an encoder."""
    config = recipe("simmim-swin-b-100e")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, size=224),
        model=dataclasses.replace(config.model, window=7),
    )
    head = 2 * 49 * 1024 * 3072
    assert (flops_per_image(config) / 3 - head) / 2e9 == pytest.approx(15.4, rel=0.01)
