"""Layer-wise rates, groups, published recipes and the rate of each step of a fine-tuning.

Planted, each seen to fail the test named: an exponent of blocks - id, ConvMAE's first stages with the head
(`test_scales_are_the_published_ones`); the full rate for any other name, a Swin's merging with the stage
after it, SimMIM's positions of a block with the head (`test_layers_of_every_method`); position embeddings
decayed (`test_groups_hold_every_trained_parameter_once`); the scale forgotten in the step
(`test_a_step_sets_each_group_s_own_rate`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.runs import OPTIMIZERS
from tests.train.models.test_convmae import SMALL as CONVMAE
from tests.train.models.test_simmim import SMALL as SIMMIM
from tests.train.models.test_simmim_swin import SMALL as SWIN
from tests.train.models.test_simmim_swin import SMALL_V2
from tests.train.optim.test_groups import ALONE, batch_of

from turbomim.pipeline.system.errors import UsageError
from turbomim.train.finetune.layer_decay import depths_of, layer_of, layer_scale, layered_optimizer
from turbomim.train.loop.step import Step
from turbomim.train.models.classifier import Classifier
from turbomim.train.models.methods import make_model
from turbomim.train.models.simmim import SimMIM
from turbomim.train.settings.config import Config, DataConfig, StepConfig
from turbomim.train.settings.dictionary import from_dict
from turbomim.train.settings.finetune import (
    FinetuneConfig,
    FinetuneSettings,
    Published,
    check_micro_batch,
    published_finetune,
)
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.settings.schedule import lr_at, lr_of_step

MAE = Config(
    data=DataConfig(size=32),
    model=ModelConfig(
        patch=8, width=32, depth=3, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2
    ),
)
EAGER = StepConfig(device="cpu", compile=False)


def finetuning(base: Config, **settings: float) -> FinetuneConfig:
    """A fine-tuning of the small model of a pre-training."""
    return FinetuneConfig(
        data=base.data,
        model=base.model,
        optim=OptimConfig(epochs=4, warmup_epochs=1, base_lr=0.01, global_batch=4, weight_decay=0.05),
        step=EAGER,
        run=base.run,
        finetune=FinetuneSettings(classes=5, **settings),  # type: ignore[arg-type]
    )


def stepped_by(config: FinetuneConfig, name: Any) -> FinetuneConfig:
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, name=name))


def classifier(config: FinetuneConfig) -> Classifier:
    return Classifier(make_model(config), config)


@pytest.mark.parametrize(
    ("depths", "name", "decay", "exponent"),
    [
        ([12], "cls_token", 0.65, 13),
        ([12], "pos_embed", 0.65, 13),
        ([12], "patch_embed.proj.weight", 0.65, 13),
        ([12], "blocks.0.attn.qkv.weight", 0.65, 12),
        ([12], "blocks.11.mlp.fc2.bias", 0.65, 1),
        ([12], "norm.weight", 0.65, 0),
        ([24], "patch_embed.proj.bias", 0.75, 25),
        # ConvMAE's 12 steps
        ([11], "patch_embed3.proj.weight", 0.65, 12),
        ([11], "blocks1.1.conv1.weight", 0.65, 12),
        ([11], "blocks3.10.norm1.weight", 0.65, 1),
        ([2, 2, 18, 2], "layers.3.blocks.1.mlp.fc1.weight", 0.8, 1),
        ([2, 2, 18, 2], "patch_embed.norm.weight", 0.8, 25),
    ],
)
def test_scales_are_the_published_ones(depths: list[int], name: str, decay: float, exponent: int) -> None:
    assert layer_scale(layer_of(name, depths), depths, decay) == pytest.approx(decay**exponent, rel=1e-12)


def test_layers_of_every_method() -> None:
    assert layer_of("layers.0.blocks.1.norm1.weight", [2, 2, 18, 2]) == 2
    # between stages 0 and 1: with the last block of stage 0
    assert layer_of("layers.1.downsample.reduction.weight", [2, 2, 18, 2]) == 2
    assert layer_of("layers.1.blocks.0.norm1.weight", [2, 2, 18, 2]) == 3
    assert layer_of("layers.3.downsample.norm.weight", [2, 2, 18, 2]) == 22
    assert layer_of("rel_pos_bias.4.relative_position_bias_table", [12]) == 5
    with pytest.raises(ValueError, match=r"stem.weight is a parameter of no known layer"):
        layer_of("stem.weight", [12])
    for base, last in ((MAE, 4), (CONVMAE, None), (SIMMIM, None), (SWIN, None), (SMALL_V2, None)):
        config = finetuning(base)
        depths, encoder = depths_of(config), make_model(config)
        if base is SIMMIM:
            assert isinstance(encoder, SimMIM)
            # as the classifier does; shared, they belong to no layer
            encoder.unshare_positions()
        layers = {
            layer_of(name, depths)
            for name, p in encoder.named_parameters()
            if not name.startswith(("decoder", "mask_token", "stage"))
        }
        # every layer has parameters, and none is beyond
        assert layers == set(range(sum(depths) + 2)), base.model.method
        assert last is None or max(layers) == last


@pytest.mark.parametrize("base", [MAE, CONVMAE, SIMMIM, SWIN, SMALL_V2], ids=lambda c: c.model.method)
@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_groups_hold_every_trained_parameter_once(base: Config, optim: str) -> None:
    config = stepped_by(finetuning(base, layer_decay=0.5), optim)
    model = classifier(config)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = layered_optimizer(model, config)
    placed = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(placed) == sorted(trained) and len(set(placed)) == len(placed)
    assert [name for name in names.values() if name not in trained] in ([], ["encoder.mask_token"])
    assert not any("decoder" in name or "proj_layers" in name for name in trained)
    for group in optimizer.param_groups:
        for p in group["params"]:
            name = names[id(p)]
            spared = p.ndim <= 1 or name.endswith((".bias", "cls_token", "pos_embed"))
            spared |= any(part in name for part in ("relative_position_bias_table", "cpb_mlp", "logit_scale"))
            assert group["weight_decay"] == (0.0 if spared else 0.05), name
    first = optimizer.param_groups[0]
    # the log's rate is that of the first group
    assert first["lr_scale"] == 1.0 and "head.weight" in [names[id(p)] for p in first["params"]]
    least = min(group["lr_scale"] for group in optimizer.param_groups)
    assert least == 0.5 ** (sum(depths_of(config)) + 1)


def changes(config: FinetuneConfig) -> dict[str, torch.Tensor]:
    """What a step at rate 0.01 adds to each parameter; its groups' rates are checked."""
    model = classifier(config)
    optimizer = layered_optimizer(model, config)
    step = Step(
        model,
        optimizer,
        EAGER,
        ALONE,
        1,
        inputs=lambda batch: (torch.ones(4, 3, 32, 32), torch.eye(5)[:4], batch.epochs_B, batch.ids_B),
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step([batch_of(MAE, 4)], 0.01)
    rates = [0.01 * config.finetune.layer_decay**n for n in (4, 3, 2, 1, 0)]
    assert sorted({group["lr"] for group in optimizer.param_groups}) == sorted(set(rates))
    return {name: p.detach() - before[name] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("optim", OPTIMIZERS)
def test_a_step_sets_each_group_s_own_rate(optim: str) -> None:
    """The first step of any optimizer is as its rate; AdamW's is the rate, whatever the gradient."""
    # gradients far above AdamW's eps
    plain, layered = (
        changes(stepped_by(finetuning(MAE, layer_decay=d, head_std=1.0), optim)) for d in (1.0, 0.5)
    )
    for key, change in layered.items():
        layer = layer_of(key.removeprefix("encoder."), [3]) if key.startswith("encoder.") else 4
        torch.testing.assert_close(change, plain[key] * 0.5 ** (4 - layer), atol=1e-7, rtol=1e-3, msg=key)
    if optim == "adamw":
        assert float(layered["encoder.blocks.2.mlp.fc2.bias"].abs().max()) == pytest.approx(0.005, rel=1e-3)


def test_published_recipes_and_rates() -> None:
    base = published_finetune(ModelConfig())
    assert base.optim.lr == pytest.approx(2e-3) and (base.finetune.layer_decay, base.finetune.drop_path) == (
        0.65,
        0.1,
    )
    optim, changes = base.optim, FinetuneSettings()
    assert (optim.beta1, optim.beta2, optim.weight_decay, optim.clip_grad) == (0.9, 0.999, 0.05, 0.0)
    assert (optim.epochs, optim.warmup_epochs, optim.global_batch) == (100, 5, 1024)
    assert (changes.mixup, changes.cutmix, changes.smoothing, changes.erase) == (0.8, 1.0, 0.1, 0.25)
    assert (changes.rand_augment, changes.head_std) == ("rand-m9-mstd0.5-inc1", 2e-5)
    # half a warm-up, its end, half the cosine, the end
    for epoch, lr in ((2.5, 1e-3), (5, 2e-3), (52.5, (2e-3 + 1e-6) / 2), (100, 1e-6)):
        assert lr_at(epoch, base.optim) == pytest.approx(lr, rel=1e-9)
    large, huge = (published_finetune(ModelConfig(width=w, heads=16)) for w in (1024, 1280))
    assert (
        large.optim.epochs,
        large.optim.base_lr,
        large.finetune.layer_decay,
        large.finetune.drop_path,
    ) == (50, 1e-3, 0.75, 0.2)
    assert huge.finetune.drop_path == 0.3 and huge.optim.lr == pytest.approx(4e-3)
    pixmim = published_finetune(ModelConfig(target="ideal"))
    assert lr_of_step(0, 10**6, pixmim.optim) == pytest.approx(2e-7) and pixmim.optim.lr == pytest.approx(
        2e-3
    )
    vit = published_finetune(ModelConfig(method="simmim"))
    assert vit.optim.lr == pytest.approx(5e-3) and vit.optim.clip_grad == 5
    assert lr_at(0, vit.optim) == pytest.approx(4 * 2.5e-7) and (
        vit.finetune.layer_decay,
        vit.finetune.head_std,
    ) == (
        0.65,
        2e-5,
    )
    swin: list[Published] = [
        published_finetune(ModelConfig(method=method, width=width, heads=width // 32))
        for method, width in (("simmim-swin", 128), ("simmim-swin", 192), ("simmim-swinv2", 128))
    ]
    assert [(r.finetune.layer_decay, r.finetune.drop_path) for r in swin] == [
        (0.8, 0.1),
        (0.7, 0.2),
        (0.75, 0.1),
    ]
    assert published_finetune(ModelConfig(method="convmae", depth=11)).optim == base.optim


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("finetune", {"layer_decay": 0}, "finetune.layer_decay = 0.0: must be above 0"),
        ("finetune", {"drop_path": 1}, "finetune.drop_path = 1.0"),
        ("finetune", {"rand_augment": "magic"}, "a policy of timm's"),
        ("finetune", {"mixing": 1}, "unknown key 'finetune.mixing': did you mean finetune.mixup"),
        ("step", {"shard": True}, "step.shard = true: must be false"),
        ("run", {"picture_every": 5}, "run.picture_every = 5"),
        ("eval", {"every_epochs": 1}, "eval.every_epochs = 1"),
    ],
)
def test_settings_that_cannot_be(section: str, values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        from_dict({section: values}, finetuning(MAE), "flags")


def test_an_odd_micro_batch_is_refused_where_images_are_mixed() -> None:
    config = finetuning(MAE)
    check_micro_batch(config, 4)
    with pytest.raises(UsageError, match="micro-batch of 3 images cannot be mixed"):
        check_micro_batch(config, 3)
    plain = dataclasses.replace(config.finetune, mixup=0.0, cutmix=0.0)
    check_micro_batch(dataclasses.replace(config, finetune=plain), 3)
