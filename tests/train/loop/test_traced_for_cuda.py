"""A whole training step, traced for a GPU of which there is none: devices, dtypes, waits and attention.

Tensors have shapes and no numbers here; loss, backward, norm, finite check and update are those of `Step`.
Triton kernels are not run: where they are launched their tensors are looked at.

Three mistakes are made in `test_mistakes_are_seen`: a tensor on the host, a wait for a number of the GPU's, a
product in float32.  Which other test fails for which mistake (each was made once, on purpose):
visible patches in float32 with bfloat16 weights, an item() of the loss, a mask made on the host:
test_a_recipe_s_step; attention's mask in the way of flash attention: the same;
a copy of class shares from the host that is not pinned: test_a_step_of_fine_tuning;
drop paths forgotten before the backward pass: test_a_recipe_s_step with recompute.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.loop.watch import Fault, Watch
from torch import Tensor, nn

from turbomim.benchmarks.gpu.absent import CUDA, absent_gpu, moved
from turbomim.pipeline.batch import Batch
from turbomim.train.finetune.augment import augmented_batch
from turbomim.train.finetune.augment_ahead import Augmented
from turbomim.train.finetune.layer_decay import layered_optimizer
from turbomim.train.loop.step import Inputs, Step, masked_inputs
from turbomim.train.models.classifier import Classifier
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.recipes.table import RECIPES, recipe
from turbomim.train.settings.config import Config
from turbomim.train.settings.finetune import FinetuneConfig, FinetuneSettings
from turbomim.train.settings.precision import uses_bfloat16
from turbomim.train.world.distributed import World

FLASH, EFFICIENT = "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"
# timm's Swins multiply and take a softmax by themselves, in bfloat16 and float32
BY_ITSELF = "bmm"
# two blocks of the encoder, one of the decoder
FEW = {"depth": 2, "decoder_depth": 1}
SHIFTED = {"stages": "1,2,1,1"}

# a recipe of each family, what makes it small, and which attention it has how often
FAMILIES: dict[str, tuple[dict[str, Any], str, int]] = {
    "mae-vit-b16-800e": (FEW, FLASH, 3),
    "pixmim-vit-b16-800e": (FEW, FLASH, 3),
    "pixmim-ideal-vit-b16-300e": (FEW, FLASH, 3),
    "mff-vit-b16-300e": (FEW | {"fuse": "0,1"}, FLASH, 3),
    "lsmae-pixmim-vit-b16-800e": (FEW, FLASH, 3),
    "convmae-b-1600e": (FEW, FLASH, 3),
    "fastconvmae-b-50e": (FEW, FLASH, 3),
    "simmim-pixmim-vit-b16-800e": ({"depth": 2}, EFFICIENT, 2),
    "simmim-swin-b-100e": (SHIFTED, BY_ITSELF, 5),
    "simmim-swinv2-b-800e": (SHIFTED, BY_ITSELF, 5),
    "cifar10-vit-t4": (FEW, FLASH, 3),
    "demo": (FEW, FLASH, 3),
}


def few_blocks(name: str, *, recompute: bool) -> Config:
    config = recipe(name)
    step = dataclasses.replace(config.step, compile=False, recompute=recompute)
    model = dataclasses.replace(config.model, **FAMILIES[name][0])
    return dataclasses.replace(config, model=model, step=step)


def batch_of(size: int) -> Batch:
    numbers_B = torch.arange(4, device=CUDA)
    images_BHWC = torch.zeros(4, size, size, 3, dtype=torch.uint8, device=CUDA)
    return Batch(images_BHWC=images_BHWC, labels_B=numbers_B, ids_B=numbers_B, epochs_B=numbers_B, position=0)


def traced(
    model: nn.Module,
    make: Callable[[nn.Module], torch.optim.Optimizer],
    batch: Callable[[], Batch],
    config: Config,
    inputs: Inputs = masked_inputs,
) -> Counter[str]:
    """Take a step, and count its operations: forward, backward, norm, finite check and update."""
    with absent_gpu(), pytest.MonkeyPatch.context() as patch:
        optimizer = make(moved(model))
        world = World(device=CUDA)
        step = Step(model, optimizer, config.step, world, 1, config.optim.clip_grad, inputs)
        assert uses_bfloat16(config.step, CUDA)
        batches = [batch()]
        watch = Watch(patch)
        with watch:
            results = step(batches, 1e-3)
        for number in (*results, *step.params, *(param.grad for param in step.params)):
            assert number is not None and (number.dtype, number.device) == (torch.float32, CUDA)
        for state in optimizer.state.values():
            assert {(value.dtype, value.device) for value in state.values()} == {(torch.float32, CUDA)}
    return watch.counts


def traced_recipe(config: Config, change: Callable[[MAE], None] = lambda model: None) -> Counter[str]:
    model = make_model(config, initial=False)
    change(model)
    return traced(
        model, lambda model: make_optimizer(model, config.optim), lambda: batch_of(config.data.size), config
    )


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_s_step(name: str, recompute: bool) -> None:
    _, attention, blocks = FAMILIES[name]
    counts = traced_recipe(few_blocks(name, recompute=recompute))
    # the last decoder block's attention is no part that is computed again
    decoded = 0 if name.startswith("simmim") else 1
    times = 2 * blocks - decoded if recompute else blocks
    if attention == BY_ITSELF:
        # two products of heads a block, and twice as many back; SwinV2's positions need none
        assert counts["bmm"] == 2 * times + 4 * blocks
        assert counts["_softmax"] == times
    else:
        assert counts[attention] == (2 * blocks if recompute else blocks)
        assert counts[f"{attention}_backward"] == blocks
        # MFF weighs its levels by one softmax
        assert counts["_softmax"] == (1 if name.startswith("mff") else 0)
    assert counts["_random_masking_kernel"] == 1
    # SwinV2 normalises whole images by windows in float32, and cuts its targets from them
    wide = 1 if "swinv2" in name else 0
    assert counts["_masked_patches_kernel torch.float32"] == wide
    assert counts["_masked_patches_kernel torch.bfloat16"] == counts["_masked_patches_kernel"] - wide == 1
    assert counts["_ideal_patches_kernel"] == (1 if "ideal" in name else 0)
    # with weight decay, and without
    assert counts["_fused_adamw_"] == 2


def test_muon_waits_for_nothing() -> None:
    """Five steps of three products in bfloat16 for each shape of matrices, and AdamW for the rest."""
    config = few_blocks("mae-vit-b16-800e", recompute=False)
    optim = dataclasses.replace(config.optim, name="muon", clip_grad=1.0)
    config = dataclasses.replace(config, optim=optim)
    counts = traced(
        make_model(config, initial=False),
        lambda model: make_optimizer(model, optim, bfloat16=True),
        lambda: batch_of(config.data.size),
        config,
    )
    # qkv, proj, fc1 and fc2 of the encoder and of the decoder, and what lies between
    assert counts["baddbmm"] == 5 * 3 * 9
    assert counts["_fused_adamw_"] == 2


def test_every_family_is_traced() -> None:
    """Every way through the model, and every target, is some traced recipe's."""

    def ways(name: str) -> set[tuple[object, ...]]:
        model, optim = recipe(name).model, recipe(name).optim
        of_model = (model.method, model.mask, model.mask_unit > 1, model.complementary, model.drop_path > 0)
        return {of_model, (model.target, model.norm_pix, model.norm_window > 0), (optim.clip_grad > 0,)}

    traced_ways = set().union(*map(ways, FAMILIES))
    assert {name: ways(name) - traced_ways for name in RECIPES} == {name: set() for name in RECIPES}


@pytest.mark.parametrize("mix", [(0.8, 0.0), (0.0, 1.0)], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("name", ["mae-vit-b16-800e", "simmim-pixmim-vit-b16-800e", "simmim-swin-b-100e"])
def test_a_step_of_fine_tuning(name: str, mix: tuple[float, float]) -> None:
    of_recipe = few_blocks(name, recompute=True)
    config = FinetuneConfig(
        data=dataclasses.replace(of_recipe.data, size=224 if name != "simmim-swin-b-100e" else 192),
        model=of_recipe.model,
        step=of_recipe.step,
        finetune=FinetuneSettings(classes=10, erase=0.5, drop_path=0.1, mixup=mix[0], cutmix=mix[1]),
    )
    model = Classifier(make_model(config, initial=False), config)

    def batch() -> Augmented:
        plain = batch_of(config.data.size)
        words_B = np.arange(4, dtype=np.uint32)
        return Augmented(
            **{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}, words_B=words_B
        )

    def inputs(batch: Batch) -> tuple[Tensor, ...]:
        assert isinstance(batch, Augmented)
        images_BCHW, targets_BK = augmented_batch(batch, config.finetune, seed=7)
        return images_BCHW, targets_BK, batch.epochs_B, batch.ids_B

    counts = traced(model, lambda model: layered_optimizer(model, config), batch, config, inputs)
    blocks = sum(config.model.depths) if "swin" in name else config.model.depth
    of_attention = counts[FLASH] + counts[EFFICIENT] + counts["_softmax"]
    assert of_attention == 2 * blocks
    assert counts["_fused_adamw_"] >= 2 * (blocks + 1)


class Mistake(nn.Module):
    """A block that does something wrong before what it should do."""

    def __init__(self, block: nn.Module, wrong: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.wrong = block, wrong

    def forward(self, tokens_BTD: Tensor) -> Tensor:
        out: Tensor = self.block(self.wrong(tokens_BTD))
        return out


def on_the_host(tokens_BTD: Tensor) -> Tensor:
    return tokens_BTD[:, torch.arange(tokens_BTD.shape[1])]


def to_the_gpu(tokens_BTD: Tensor) -> Tensor:
    # pageable memory: the host waits for the copy
    return tokens_BTD * torch.tensor([2.0]).to(tokens_BTD.device)


def scaled_by_a_number(tokens_BTD: Tensor) -> Tensor:
    return tokens_BTD / tokens_BTD.mean().item()


def chosen(tokens_BTD: Tensor) -> Tensor:
    large = tokens_BTD > 0
    return tokens_BTD + tokens_BTD[large].sum()


def branched(tokens_BTD: Tensor) -> Tensor:
    return tokens_BTD if tokens_BTD.sum() > 0 else -tokens_BTD


def not_rounded(tokens_BTD: Tensor) -> Tensor:
    with torch.autocast("cuda", enabled=False):
        wide = tokens_BTD.float()
        return tokens_BTD + wide @ torch.ones(wide.shape[-1], wide.shape[-1], device=wide.device)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (on_the_host, "tensors on cpu and cuda"),
        (to_the_gpu, "tensors on cpu and cuda"),
        (scaled_by_a_number, "the host waits for what the GPU finds"),
        (chosen, "the host waits for what the GPU finds"),
        (branched, "the host waits for what the GPU finds"),
        (not_rounded, r"a product of torch\.float32"),
    ],
)
def test_mistakes_are_seen(wrong: Callable[[Tensor], Tensor], said: str) -> None:
    def change(model: MAE) -> None:
        model.blocks[1] = Mistake(model.blocks[1], wrong)

    with pytest.raises(Fault, match=said):
        traced_recipe(few_blocks("mae-vit-b16-800e", recompute=False), change)


def test_positions_that_stay_behind_are_seen() -> None:
    """A tensor that is no buffer and no parameter is not moved with the model."""

    def change(model: MAE) -> None:
        positions = model.pos_embed.detach().clone()
        del model.pos_embed
        model.pos_embed = positions  # type: ignore[assignment]

    with pytest.raises(Exception, match="convert all Tensors to FakeTensors"):
        traced_recipe(few_blocks("mae-vit-b16-800e", recompute=False), change)
