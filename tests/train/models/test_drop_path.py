"""Drop path against models whose branches are scaled by hand, one sample at a time.

Planted, each seen to fail the test named: one draw for both branches of a block, a scale of 1 instead of
1 / (1 - rate), SwinV2's paths never drawn (`test_a_sample_trains_the_model_whose_branches_it_drew`); words of
the mask's purpose (`test_draws_are_no_ones_else`); rates that rise from the second block's share
(`test_rates_rise_linearly_to_the_last_block`); scales left behind after the step
(`test_nothing_is_left_out_of_features_and_held_out_losses`) or after the backward pass, or none in it
(`test_recomputed_branches_are_those_of_the_forward_pass`).
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.train.models.test_mae import inputs, with_model
from tests.train.models.test_simmim import SMALL, stirred
from tests.train.models.test_simmim_swin import SMALL_V2
from torch import Tensor

from turbomim.kernels.philox import PURPOSE_MASK, draw_u32_ref
from turbomim.pipeline.stream import philox as host
from turbomim.pipeline.system.errors import UserError
from turbomim.train.models.drop_path import DropPath, add_drop_path, draw_paths
from turbomim.train.models.methods import make_model
from turbomim.train.models.simmim import SimMIM
from turbomim.train.models.vit import make_blocks
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config

RATE = 0.6
VIT = with_model(SMALL, depth=3, drop_path=RATE)
V2 = with_model(SMALL_V2, drop_path=RATE)
BOTH = pytest.mark.parametrize("config", [VIT, V2], ids=["vit", "swinv2"])
EPOCH = torch.tensor([5])


def drawn(net: SimMIM, ids_B: Tensor) -> Tensor:
    """Scales (B, paths) from the host's Philox, in the order of the blocks, attention first."""
    words = host.draw_u32(net.seed, EPOCH.numpy().repeat(len(ids_B)), ids_B.numpy(), 4, len(net.paths))
    rates = torch.tensor([path.rate for path in net.paths], dtype=torch.float64)
    kept = torch.from_numpy(words.astype("int64")).double() / 2**32 >= rates
    return kept.double() / (1 - rates)


def scaled_by_hand(config: Config, scales: Tensor) -> SimMIM:
    """A model without drop path whose branches have these factors in their last multiplication."""
    net = stirred(with_model(config, drop_path=0.0))
    kinds = ["gamma_1", "gamma_2"] if config is VIT else ["norm1.", "norm2."]
    later = net.blocks_to_split()[1:]
    parts = [
        [p for n, p in block.named_parameters() if n.startswith(kind)] for block in later for kind in kinds
    ]
    with torch.no_grad():
        for params, scale in zip(parts, scales, strict=True):
            for param in params:
                param.mul_(scale)
    return net


@BOTH
def test_a_sample_trains_the_model_whose_branches_it_drew(config: Config) -> None:
    net = stirred(config)
    images, keep, mask = inputs(config, 12)
    ids = torch.arange(12) + 1
    scales = drawn(net, ids)
    assert len(set(map(tuple, scales.tolist()))) > 6
    for i in range(12):
        one = images[i : i + 1], EPOCH, ids[i : i + 1], keep[i : i + 1], mask[i : i + 1]
        torch.testing.assert_close(
            net(*one), scaled_by_hand(config, scales[i])(*one), rtol=1e-5, atol=1e-6, msg=str(i)
        )
    alone = torch.stack([net(images[i : i + 1], EPOCH, ids[i : i + 1]) for i in range(12)])
    together = net(images, EPOCH.repeat(12), ids)
    torch.testing.assert_close(together, alone.mean(), rtol=1e-5, atol=1e-6)


@BOTH
@pytest.mark.parametrize("recompute", [False, True], ids=["plain", "recomputed"])
def test_compiled_equals_eager(config: Config, recompute: bool) -> None:
    images, _, _ = inputs(config, 3)
    epochs, ids = EPOCH.repeat(3), torch.arange(3) + 10
    eager = make_model(config)
    step = dataclasses.replace(config.step, recompute=recompute)
    compiled = make_model(dataclasses.replace(config, step=step))
    fn = torch.compile(compiled, fullgraph=True, dynamic=False, backend="aot_eager")
    # other samples next, which draw other paths
    for more in (0, 3):
        a, b = eager(images, epochs, ids + more), fn(images, epochs, ids + more)
        torch.autograd.backward([a, b])
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for (name, p), q in zip(eager.named_parameters(), compiled.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None, name
            assert float((p.grad - q.grad).abs().max()) < 1e-6 + 1e-4 * float(p.grad.abs().max()), name


@BOTH
def test_recomputed_branches_are_those_of_the_forward_pass(config: Config) -> None:
    images, _, _ = inputs(config, 3)
    step = dataclasses.replace(config.step, recompute=True)
    plain, again = stirred(config), stirred(dataclasses.replace(config, step=step))
    for net in (plain, again):
        net(images, EPOCH.repeat(3), torch.arange(3)).backward()
    assert torch.equal(again.features(images), plain.features(images))
    for (name, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        assert torch.equal(one.grad, other.grad), name


@BOTH
def test_nothing_is_left_out_of_features_and_held_out_losses(config: Config) -> None:
    images, keep, mask = inputs(config, 3)
    net, plain = stirred(config), stirred(with_model(config, drop_path=0.0))
    batch = images, EPOCH.repeat(3), torch.arange(3), keep, mask
    assert net(*batch) != plain(*batch)
    assert torch.equal(net.features(images), plain.features(images))
    net.eval()
    assert torch.equal(net(*batch), plain(*batch))


def test_draws_are_no_ones_else() -> None:
    paths = add_drop_path(make_blocks(3, 16, 2), 0.9999)
    epochs, ids = torch.zeros(64, dtype=torch.long), torch.arange(64)
    # rate 1/2: the scale tells the word's highest bit
    for path in paths:
        path.rate = 0.5
    draw_paths(paths, 3, epochs, ids)
    masks = draw_u32_ref(3, epochs, ids, PURPOSE_MASK, len(paths)) >= 2**31
    scales = torch.stack([path.scale_B for path in paths if path.scale_B is not None], 1)
    same = ((scales > 0) == masks).double().mean()
    assert 0.35 < float(same) < 0.65


def test_as_many_are_left_out_as_the_rate_says() -> None:
    paths = add_drop_path(make_blocks(2, 16, 2), 0.25)
    draw_paths(paths, 3, torch.zeros(20_000, dtype=torch.long), torch.arange(20_000))
    for path in paths:
        assert path.scale_B is not None
        # four standard errors
        assert abs(float((path.scale_B == 0).double().mean()) - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5
        assert float(path.scale_B.max()) == pytest.approx(1 / 0.75)


def test_rates_rise_linearly_to_the_last_block() -> None:
    paths = add_drop_path(make_blocks(5, 16, 2), 0.1)
    assert [path.rate for path in paths] == pytest.approx([0.025] * 2 + [0.05] * 2 + [0.075] * 2 + [0.1] * 2)
    assert isinstance(paths[0], DropPath)
    assert add_drop_path(make_blocks(5, 16, 2), 0.0) == []


@pytest.mark.parametrize(
    ("name", "rate"),
    [("simmim-vit-b16-800e", 0.1), ("simmim-swinv2-b-800e", 0.1), ("simmim-swin-b-100e", 0.0)],
)
def test_recipes_have_the_published_rates(name: str, rate: float) -> None:
    assert recipe(name).model.drop_path == rate


@pytest.mark.parametrize("changes", [{"drop_path": 1.0}, {"method": "mae"}])
def test_settings_that_cannot_work_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"model\.drop_path"):
        with_model(VIT, **changes)
