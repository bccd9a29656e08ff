"""The model against the textbook form of the benchmarks, in float64, and the published pins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from tests.kernels.patches_float64 import disc_filtered
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from turbomim.benchmarks.step.textbook_mae import TextbookMAE, noise_of, normalised
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import flops_per_image
from turbomim.train.models.vit import sincos_positions
from turbomim.train.optim.groups import decayed
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config, DataConfig, RunConfig
from turbomim.train.settings.model import ModelConfig

SMALL = Config(
    data=DataConfig(size=48),
    model=ModelConfig(
        patch=8, width=48, depth=3, heads=4, decoder_width=32, decoder_depth=2, decoder_heads=2, radius=8.5
    ),
    run=RunConfig(seed=3),
)


def with_model(config: Config, **changes: object) -> Config:
    model = dataclasses.replace(config.model, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(config, model=model)


def textbook_loss(
    net: TextbookMAE, images_BHWC: Tensor, ids_keep_BK: Tensor, ids_mask_BM: Tensor, config: Config
) -> Tensor:
    """In float64.  Blurring normalised images is normalising blurred ones, unlike the disc's modulus."""
    model, size = config.model, config.data.size
    images_BCHW = target_BCHW = normalised(images_BHWC, torch.float64)
    if model.target == "gaussian":
        sigma = size / (2 * torch.pi * model.radius)
        taps = 2 * int(-(-4 * sigma // 1)) + 1
        target_BCHW = gaussian_blur(images_BCHW, [taps, taps], [sigma, sigma])
    if model.target == "ideal":
        filtered_BHWC = torch.from_numpy(disc_filtered(images_BHWC.double().numpy() / 255, model.radius))
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (IMAGENET_MEAN, IMAGENET_STD))
        target_BCHW = ((filtered_BHWC - mean) / std).permute(0, 3, 1, 2)
    loss: Tensor = net(images_BCHW, noise_of(ids_keep_BK, ids_mask_BM), target_BCHW)
    return loss


def inputs(config: Config, batch: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    size = config.data.size
    images = torch.randint(0, 256, (batch, size, size, 3), generator=g, dtype=torch.uint8)
    order = torch.rand(batch, config.patches, generator=g).argsort(1)
    return images, order[:, : config.keep].contiguous(), order[:, config.keep :].contiguous()


@pytest.mark.parametrize("norm_pix", [True, False], ids=["norm_pix", "pixels"])
@pytest.mark.parametrize("target", ["raw", "gaussian", "ideal"], ids=["mae", "pixmim", "published pixmim"])
def test_loss_and_every_gradient_equal_the_textbook_form(target: str, norm_pix: bool) -> None:
    config = with_model(SMALL, target=target, norm_pix=norm_pix)
    images, keep, mask = inputs(config)
    fast = MAE(config)
    book = TextbookMAE(config)
    book.load_state_dict(fast.state_dict())
    book.double()
    ours = fast(images, torch.zeros(5, dtype=torch.long), torch.arange(5), keep, mask)
    theirs = textbook_loss(book, images, keep, mask, config)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    torch.autograd.backward([ours, theirs])
    compared = assert_same_gradients(fast, dict(book.named_parameters()))
    assert len(compared) == sum(p.requires_grad for p in fast.parameters())


def assert_same_gradients(net: nn.Module, reference: Mapping[str, Tensor]) -> list[str]:
    """Names of the trained parameters, whose gradients are all the reference's to 1e-5 of its largest."""
    trained = {name: param for name, param in net.named_parameters() if param.requires_grad}
    for name, param in trained.items():
        expected = reference[name].grad
        assert param.grad is not None and expected is not None, name
        worst = float((param.grad - expected).abs().max()) / max(float(expected.abs().max()), 1e-3)
        assert worst < 1e-5, f"{name}: {worst:.1e} of the largest gradient"
    return list(trained)


def assert_compiles(
    eager: nn.Module, compiled: nn.Module, *batch: Tensor, backend: str = "inductor"
) -> Tensor:
    """The eager loss, which one compiled graph of the same weights has too, as every gradient."""
    fn = torch.compile(compiled, fullgraph=True, dynamic=False, backend=backend)
    loss: Tensor = eager(*batch)
    ours = fn(*batch)
    torch.autograd.backward([loss, ours])
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=1e-6)
    trained = [name for name, param in eager.named_parameters() if param.requires_grad]
    for name in trained:
        expected, found = (net.get_parameter(name).grad for net in (eager, compiled))
        assert expected is not None and found is not None, name
        assert float((found - expected).abs().max()) < 1e-6 + 1e-4 * float(expected.abs().max()), name
    assert trained
    return loss


def test_compiled_step_equals_eager_and_keeps_one_graph() -> None:
    config = with_model(SMALL, target="gaussian", depth=1, decoder_depth=1)
    images, _, _ = inputs(config)
    epochs, ids = torch.zeros(5, dtype=torch.long), torch.arange(5) + 10
    eager = MAE(config)
    a = assert_compiles(eager, MAE(config), images, epochs, ids)
    assert torch.equal(a, eager(images, epochs, ids)), "same samples, same masks"
    assert not torch.equal(a, eager(images, epochs + 1, ids)), "another epoch, other masks"


@pytest.mark.parametrize(
    ("width", "depth", "heads", "patch", "total", "trainable", "encoder"),
    [
        (768, 12, 12, 16, 111_907_840, 111_655_680, 85_798_656),
        (1024, 24, 16, 16, 329_541_888, 329_239_296, 303_301_632),
        (1280, 32, 16, 14, 657_074_508, 656_613_964, 630_764_800),
    ],
    ids=["base", "large", "huge"],
)
def test_parameter_counts(
    width: int, depth: int, heads: int, patch: int, total: int, trainable: int, encoder: int
) -> None:
    config = Config(model=ModelConfig(width=width, depth=depth, heads=heads, patch=patch))
    with torch.device("meta"):
        net = MAE(config)
    params = dict(net.named_parameters())
    assert sum(p.numel() for p in params.values()) == total
    assert sum(p.numel() for p in params.values() if p.requires_grad) == trainable
    decoder = sum(p.numel() for n, p in params.items() if n.startswith(("decoder_", "mask_token")))
    assert total - decoder == encoder
    assert len(params) == {12: 254, 24: 398, 32: 494}[depth]


def test_weight_decay_groups_of_vit_base() -> None:
    with torch.device("meta"):
        net = MAE(Config())
    named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
    mae = [decayed(n, p, True) for n, p in named]
    assert (mae.count(False), mae.count(True)) == (167, 85)
    pixmim = {n for n, p in named if decayed(n, p, True) and not decayed(n, p, False)}
    assert pixmim == {"cls_token", "mask_token"}


def test_position_embedding_pins() -> None:
    rows = sincos_positions(768, 14)[0].double()
    assert rows.shape == (197, 768)
    assert rows[0].abs().max() == 0
    pins = {
        (2, 0): 0.84147098, (2, 1): 0.81525065, (2, 192): 0.54030231, (2, 384): 0.0, (2, 576): 1.0,
        (15, 0): 0.0, (15, 192): 1.0, (15, 384): 0.84147098, (15, 576): 0.54030231,
    }  # fmt: skip
    for (token, value), expected in pins.items():
        assert abs(float(rows[token, value]) - expected) < 1e-7, (token, value)
    assert abs(float(rows.sum()) - 69594.4939) < 1e-2
    assert abs(float(rows[1:].norm(dim=1).min()) - 384**0.5) < 1e-4


def test_initialisation_statistics_and_seed() -> None:
    net, again, other = MAE(SMALL), MAE(SMALL), MAE(dataclasses.replace(SMALL, run=RunConfig(seed=4)))
    for (name, a), b in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(net.cls_token, other.cls_token)
    state = net.state_dict()
    qkv, conv = state["blocks.0.attn.qkv.weight"], state["patch_embed.proj.weight"]
    # the fused qkv is one matrix: its fan-out is 3 D
    for weight, fans in ((qkv, sum(qkv.shape)), (conv, conv.shape[0] + conv[0].numel())):
        bound = (6 / fans) ** 0.5
        assert 0.95 * bound < float(weight.abs().max()) <= bound
    bound = conv[0].numel() ** -0.5
    assert 0.9 * bound < float(state["patch_embed.proj.bias"].abs().max()) <= bound
    for name, value in state.items():
        if "norm" in name:
            assert torch.equal(value, torch.full_like(value, float(name.endswith("weight")))), name
        elif name.endswith("bias") and name != "patch_embed.proj.bias":
            assert not value.any(), name
    wide = MAE(with_model(SMALL, width=768, decoder_width=512, heads=12, decoder_heads=16))
    for token in (wide.cls_token, wide.mask_token):
        assert float(token.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_masks_keep_the_right_number() -> None:
    epochs, ids = torch.zeros(4, dtype=torch.long), torch.arange(4)
    net = MAE(with_model(SMALL, patch=16))
    keep, mask = net.random_masking(epochs, ids)
    assert (keep.shape, mask.shape) == ((4, 2), (4, 7))
    assert Config().keep == 49 and Config(model=ModelConfig(patch=14, width=1280, heads=16)).keep == 64
    assert torch.equal(torch.cat([keep, mask], 1).sort(1).values, torch.arange(9).expand(4, 9))


@pytest.mark.parametrize(
    ("width", "depth", "heads", "patch", "gflop"),
    [(768, 12, 12, 16, 58.5), (1024, 24, 16, 16, 124.2), (1280, 32, 16, 14, 291.0)],
    ids=["base", "large", "huge"],
)
def test_flops_per_image(width: int, depth: int, heads: int, patch: int, gflop: float) -> None:
    config = Config(model=ModelConfig(width=width, depth=depth, heads=heads, patch=patch))
    assert abs(flops_per_image(config) / 1e9 / gflop - 1) < 0.01


def test_random_init_loss_on_noise() -> None:
    config = with_model(SMALL, width=192, heads=4, decoder_width=128, decoder_heads=4)
    images, keep, mask = inputs(config, 16)
    with torch.no_grad():
        loss = float(MAE(config)(images, torch.zeros(16, dtype=torch.long), torch.arange(16), keep, mask))
    assert 1.3 < loss < 2.3
