"""MFF against the published formula in float64, its pins, its log and its sharded run.

Planted, each seen to fail the test named: no softmax, no final norm, the inputs of blocks instead of their
outputs, projections of the next level, a bias without its share
(`test_loss_and_every_gradient_equal_the_published_formula`); the fusion drawn before the MAE's weights
(`test_a_seeds_mae_weights_stay_and_the_fusion_starts_even`); fused features
(`test_features_are_those_of_the_plain_encoder`); a single level's weight trained
(`test_parameters_are_as_many_as_published`); projections without the class token
(`test_flops_are_the_maes_and_the_projections`); weights logged instead of shares
(`test_the_shares_are_in_the_log_and_on_the_boards`), or those of one rank
(`test_two_sharded_ranks_give_the_losses_and_shares_of_one`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import config_for, quiet, records, run
from tests.train.models.test_mae import (
    SMALL,
    assert_compiles,
    assert_same_gradients,
    inputs,
    textbook_loss,
    with_model,
)
from torch import Tensor, nn

from turbomim.benchmarks.step.textbook_mae import TextbookMAE
from turbomim.pipeline.system.errors import UserError
from turbomim.pipeline.tars.split import Split
from turbomim.train.machine.predicted_memory import count_parameters
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import flops_per_image, make_model
from turbomim.train.models.mff import MFF
from turbomim.train.optim.groups import decayed
from turbomim.train.pretrain.pretrain import pretrain
from turbomim.train.recipes.table import recipe
from turbomim.train.settings.config import Config, StepConfig
from turbomim.train.settings.dictionary import differences
from turbomim.train.settings.model import ModelConfig
from turbomim.train.trackers.scalars import scalars_of

# what makes an MAE of an MFF
PLAIN = {"method": "mae", "fuse": ModelConfig().fuse}
# levels with a gap, that begin after the first block
DEEP = with_model(SMALL, method="mff", depth=4, fuse="1,2,3")


class TextbookMFF(TextbookMAE):
    """As published: levels but the last through layers of their own; stacked, weighted, summed; the norm."""

    def __init__(self, config: Config, levels: list[int]) -> None:
        super().__init__(config)
        width, self.levels = config.model.width, levels
        self.proj_layers = nn.ModuleList(nn.Linear(width, width) for _ in levels[:-1])
        self.proj_weights = nn.Parameter(torch.ones(len(levels), 1, 1, 1))

    def forward_encoder(self, images_BCHW: Tensor, noise_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs: list[Tensor] = []
        hooks = [block.register_forward_hook(lambda *a: outputs.append(a[2])) for block in self.blocks]
        _, mask_BN, ids_restore_BN = super().forward_encoder(images_BCHW, noise_BN)
        for hook in hooks:
            hook.remove()
        taken = [outputs[level] for level in self.levels]
        taken = [proj(each) for proj, each in zip(self.proj_layers, taken[:-1], strict=True)] + taken[-1:]
        fused_BTD = (torch.softmax(self.proj_weights, dim=0) * torch.stack(taken)).sum(dim=0)
        return self.norm(fused_BTD), mask_BN, ids_restore_BN


def scrambled(config: Config) -> MFF:
    """A model whose shares differ and whose projections have biases."""
    model = make_model(config)
    assert isinstance(model, MFF)
    with torch.no_grad():
        model.proj_weights.copy_(torch.linspace(-1, 1.5, len(model.proj_weights)).view(-1, 1, 1, 1))
        for number, proj in enumerate(model.proj_layers):
            assert isinstance(proj, nn.Linear)
            proj.bias.copy_(torch.linspace(-0.1, 0.2 + number / 10, len(proj.bias)))
    return model


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({}, [1, 2, 3]),
        ({"fuse": "0,3", "target": "gaussian"}, [0, 3]),
        ({"fuse": "0,3", "target": "ideal"}, [0, 3]),
        ({"fuse": "0,1,2,3", "norm_pix": False}, [0, 1, 2, 3]),
    ],
    ids=["three levels", "two, pixmim", "two, published pixmim", "all, pixels"],
)
def test_loss_and_every_gradient_equal_the_published_formula(
    changes: dict[str, Any], levels: list[int]
) -> None:
    config = with_model(DEEP, **changes)
    images, keep, mask = inputs(config)
    fast, book = scrambled(config), TextbookMFF(config, levels)
    book.load_state_dict(fast.state_dict())
    book.double()
    ours = fast(images, torch.zeros(5, dtype=torch.long), torch.arange(5), keep, mask)
    theirs = textbook_loss(book, images, keep, mask, config)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    torch.autograd.backward([ours, theirs])
    compared = assert_same_gradients(fast, dict(book.named_parameters()))
    assert sum(name.startswith("proj_") for name in compared) == 2 * (len(levels) - 1) + 1


def test_six_levels_begin_with_a_sixth_each() -> None:
    model = make_model(with_model(SMALL, method="mff", depth=12, fuse="0,2,4,6,8,11"))
    shares = model.logged()
    assert list(shares) == [f"fuse_{n}" for n in range(6)]
    assert [float(share) for share in shares.values()] == pytest.approx([1 / 6] * 6)


def test_one_level_is_an_mae_bit_for_bit() -> None:
    config = with_model(DEEP, fuse="3")
    images, keep, mask = inputs(config)
    mff, mae = make_model(config), MAE(config)
    assert isinstance(mff, MFF) and not mff.proj_weights.requires_grad
    numbers = torch.arange(5)
    a, b = mff(images, numbers, numbers, keep, mask), mae(images, numbers, numbers, keep, mask)
    torch.autograd.backward([a, b])
    assert torch.equal(a, b)
    for name, parameter in mae.named_parameters():
        grad = mff.get_parameter(name).grad
        assert parameter.grad is None or (grad is not None and torch.equal(grad, parameter.grad)), name


def test_a_seeds_mae_weights_stay_and_the_fusion_starts_even() -> None:
    mff, mae = make_model(DEEP), MAE(DEEP)
    state = mff.state_dict()
    for name, tensor in mae.state_dict().items():
        assert torch.equal(state.pop(name), tensor), name
    assert set(state) == {
        "proj_weights",
        *(f"proj_layers.{n}.{p}" for n in (0, 1) for p in ("weight", "bias")),
    }
    assert state["proj_weights"].shape == (3, 1, 1, 1) and bool((state["proj_weights"] == 1).all())
    bound = (6 / (2 * DEEP.model.width)) ** 0.5
    for number in (0, 1):
        weight, bias = (state[f"proj_layers.{number}.{part}"] for part in ("weight", "bias"))
        assert 0.95 * bound < float(weight.abs().max()) <= bound and float(bias.abs().max()) == 0
    assert not torch.equal(state["proj_layers.0.weight"], state["proj_layers.1.weight"])
    again = make_model(DEEP).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    # as published: the layers' matrices and the weights of the levels are decayed
    assert {name for name, p in mff.named_parameters() if name in state and decayed(name, p, False)} == {
        "proj_weights", "proj_layers.0.weight", "proj_layers.1.weight",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fuse", "more"),
    [
        ("mff-vit-b16-800e", None, 2_952_966),
        ("mff-vit-s16-800e", None, 739_206),
        ("pixmim-mff-vit-b16-800e", None, 1_771_780),
        # without a projection there is the frozen weight
        ("mff-vit-b16-800e", "11", 1),
    ],
)
def test_parameters_are_as_many_as_published(name: str, fuse: str | None, more: int) -> None:
    config = recipe(name)
    if fuse is not None:
        config = with_model(config, fuse=fuse)
    ours, plain = count_parameters(config), count_parameters(with_model(config, **PLAIN))
    assert ours.trained + ours.fixed - plain.trained - plain.fixed == more
    assert ours.fixed - plain.fixed == (1 if fuse else 0)


def test_flops_are_the_maes_and_the_projections() -> None:
    config = recipe("mff-vit-b16-800e")
    plain = flops_per_image(with_model(config, **PLAIN))
    # five layers of 768 x 768 over 49 patches and the class token, forward and twice as much backward
    assert flops_per_image(config) - plain == 3 * 5 * 2 * 50 * 768**2


def test_a_compiled_and_a_recomputed_step_equal_the_plain_one() -> None:
    config = with_model(DEEP, depth=2, decoder_depth=1, fuse="0,1")
    images, keep, mask = inputs(config)
    numbers = torch.arange(5)
    again = scrambled(dataclasses.replace(config, step=StepConfig(recompute=True)))
    plain, compiled = scrambled(config), scrambled(config)
    batch = (images, numbers, numbers, keep, mask)
    loss = assert_compiles(plain, compiled, *batch)
    other = again(*batch)
    other.backward()
    assert torch.equal(other, loss)
    for name, parameter in plain.named_parameters():
        recomputed = again.get_parameter(name).grad
        if parameter.grad is not None:
            assert recomputed is not None and torch.equal(recomputed, parameter.grad), name


def test_features_are_those_of_the_plain_encoder() -> None:
    model, mae = scrambled(DEEP), MAE(DEEP)
    images, _, _ = inputs(DEEP)
    with torch.no_grad():
        assert torch.equal(model.features(images), mae.features(images))


@pytest.mark.parametrize("fuse", ["", "0,2", "2,1,3", "0,0,3", "0,3,4", "1, 3", "-1,3", "a"])
def test_levels_that_cannot_be_are_one_line(fuse: str) -> None:
    with pytest.raises(UserError, match=r"model.fuse = .*: must be block numbers .* the last one 3") as error:
        with_model(DEEP, fuse=fuse)
    assert "\n" not in str(error.value)


def test_the_shares_are_in_the_log_and_on_the_boards(tiny_split: Split, tmp_path: Path) -> None:
    model = {"method": "mff", "depth": 3, "fuse": "0,1,2"}
    pretrain(config_for(tiny_split.folder, tmp_path, model=model, optim={"epochs": 2}), console=quiet())
    found = records(tmp_path / "r")
    shares = [[record[f"model/fuse_{n}"] for n in range(3)] for record in found]
    assert all(sum(each) == pytest.approx(1) and "model/fuse_3" not in found[0] for each in shares)
    # the first step's rate is nearly 0
    assert shares[0] == pytest.approx([1 / 3] * 3, abs=1e-3) and shares[-1] != shares[0]
    drawn = scalars_of(found[-1])
    assert [drawn[f"model/fuse_{n}"] for n in range(3)] == shares[-1]


def test_two_sharded_ranks_give_the_losses_and_shares_of_one(tiny_split: Split, tmp_path: Path) -> None:
    model, optim = {"method": "mff", "depth": 3, "fuse": "0,1,2"}, {"epochs": 2, "base_lr": 5e-3}
    for world, name in ((1, "one"), (2, "two")):
        step = {"shard": world == 2}
        run(config_for(tiny_split.folder, tmp_path / name, model=model, optim=optim, step=step), world)
    one, two = (records(tmp_path / name / "r") for name in ("one", "two"))
    assert len(one) == len(two) == 9
    for key in ("loss", "model/fuse_0", "model/fuse_1", "model/fuse_2"):
        assert [r[key] for r in two] == pytest.approx([r[key] for r in one], abs=1e-6), key


def test_recipes_are_as_published() -> None:
    for name, epochs, start in (("mff-vit-b16-300e", 300, 1e-4), ("mff-vit-b16-800e", 800, 1e-9)):
        config, pixmim = recipe(name), recipe(f"pixmim-{name[4:]}")
        assert (config.optim.epochs, config.optim.warmup_start, config.run.seed) == (epochs, start, 2)
        # MFF's crop and schedule are PixMIM's
        assert differences(pixmim, config) == ["model.method: mae -> mff", "model.target: gaussian -> raw"]
    both = recipe("pixmim-mff-vit-b16-800e")
    assert differences(recipe("pixmim-vit-b16-800e"), both) == [
        "data.interpolation: bilinear -> bicubic", "model.method: mae -> mff",
        "model.fuse: 0,2,4,6,8,11 -> 3,5,7,11",
    ]  # fmt: skip
    assert recipe("mff-vit-b16-800e").model.levels == [0, 2, 4, 6, 8, 11]
    plain = recipe("cifar10-pixmim-vit-t4")
    assert differences(plain, recipe("cifar10-pixmim-mff-vit-t4")) == [
        "model.method: mae -> mff", "model.fuse: 0,2,4,6,8,11 -> 1,2,3,5",
    ]  # fmt: skip
    assert differences(plain, recipe("cifar10-mff-vit-t4")) == [
        "model.method: mae -> mff", "model.fuse: 0,2,4,6,8,11 -> 0,1,2,3,4,5",
        "model.target: gaussian -> raw",
    ]  # fmt: skip
    assert ModelConfig().fuse == "0,2,4,6,8,11"
