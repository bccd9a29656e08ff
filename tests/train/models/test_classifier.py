"""The classifier of fine-tuning against timm's, and what is done to its inputs against the formulas.

Planted, each seen to fail the test named: the pre-trained norm kept, the class token in the mean, patches by
column (`test_logits_are_those_of_timm`); biases of positions shared still
(`test_simmim_blocks_have_own_biases`); the same drop path in all blocks, none in a branch of ConvMAE's
(`test_drop_path_rises`); no smoothing of mixed targets, the same numbers for every micro-batch
(`test_mixed_targets_are_the_written_out_formula`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tests.train.finetune.test_layer_decay import MAE, classifier, finetuning
from tests.train.models.test_convmae import SMALL as CONVMAE
from tests.train.models.test_simmim import SMALL as SIMMIM
from tests.train.models.test_simmim_swin import SMALL as SWIN
from torch import nn
from torch.nn import functional
from torchvision.transforms import v2

from turbomim.pipeline.decoding.centre_crops import CentreCrop, centre_crop
from turbomim.train.encoder.features import normalised
from turbomim.train.export.timm import timm_arguments
from turbomim.train.finetune.augment import mix_batch
from turbomim.train.models.classifier import patches_of
from turbomim.train.models.drop_path import DropPath
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import IMAGENET_MEAN, IMAGENET_STD, Config, DataConfig
from turbomim.train.settings.finetune import FinetuneConfig, FinetuneSettings
from turbomim.train.settings.model import ModelConfig

# epochs and ids of samples, from which drop path is drawn
DRAWN = torch.zeros(4, dtype=torch.long), torch.arange(4)
PLAIN = {"drop_path": 0.0, "mixup": 0.0, "cutmix": 0.0, "erase": 0.0, "smoothing": 0.0}


def images(size: int, count: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, size, size, 3), generator=g, dtype=torch.uint8)


def jostle(model: nn.Module) -> None:
    """Weights that are nowhere what they are initialised to."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape, generator=g), alpha=0.1)


class Nought(nn.Module):
    """What is dropped always."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_logits_are_those_of_timm() -> None:
    config = finetuning(MAE, **PLAIN)
    model = classifier(config).eval()
    jostle(model)
    arguments = timm_arguments(config) | {"num_classes": 5, "global_pool": "avg"}
    theirs = timm.create_model(**arguments).eval()
    names = {
        name.removeprefix("encoder."): tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("mask_token")
    }
    assert isinstance(theirs.norm, nn.Identity)
    theirs.load_state_dict(names)
    pixels_BCHW = normalised(images(32))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(pixels_BCHW, (images(32).permute(0, 3, 1, 2) / 255 - mean) / std)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(pixels_BCHW), theirs(pixels_BCHW), rtol=0, atol=1e-5)


@pytest.mark.parametrize("base", [MAE, CONVMAE, SIMMIM, SWIN], ids=lambda c: c.model.method)
def test_patches_are_those_of_the_encoder_s_own_features(base: Config) -> None:
    config = finetuning(base, **PLAIN)
    encoder = make_model(config)
    pixels_BHWC = images(config.data.size, 2)
    whole_BNP, _ = encoder.whole_patches(pixels_BHWC)
    torch.testing.assert_close(patches_of(normalised(pixels_BHWC), encoder.patch), whole_BNP)
    # with the norm put back the pooled tokens are those that `features` gives
    with torch.no_grad():
        mean_BD = encoder.features(pixels_BHWC)[:, encoder.prefix :].mean(1)
    model = classifier(config).eval()
    if isinstance(model.fc_norm, nn.LayerNorm):
        model.encoder.norm, model.fc_norm = model.fc_norm, nn.Identity()
    model.head = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(normalised(pixels_BHWC)), mean_BD, rtol=1e-4, atol=1e-5)


def test_loss_is_cross_entropy_with_shares() -> None:
    model = classifier(finetuning(MAE, **PLAIN)).eval()
    jostle(model)
    pixels_BCHW = normalised(images(32))
    targets_BK = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)).softmax(1)
    logits_BK = model.logits(pixels_BCHW).double()
    log_BK = logits_BK - logits_BK.exp().sum(1, keepdim=True).log()
    assert float(model(pixels_BCHW, targets_BK, *DRAWN).detach()) == pytest.approx(
        float(-(targets_BK * log_BK).sum(1).mean().detach()), rel=1e-5
    )


@pytest.mark.parametrize("base", [MAE, SIMMIM], ids=lambda c: c.model.method)
def test_it_is_one_graph(base: Config) -> None:
    """Drop path and unshared positions too; eager, as compiling takes long."""
    model = classifier(finetuning(base))
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    inputs = normalised(images(base.data.size)), torch.full((4, 5), 0.2), *DRAWN
    assert float(model(*inputs).detach()) == float(compiled(*inputs).detach())


def test_simmim_blocks_have_own_biases() -> None:
    model = classifier(finetuning(SIMMIM))
    tables = [p for name, p in model.named_parameters() if "relative_position_bias_table" in name]
    assert len(tables) == SIMMIM.model.depth
    start = [table.clone() for table in tables]
    model(normalised(images(SIMMIM.data.size)), torch.full((4, 5), 0.2), *DRAWN).backward()
    assert all(torch.equal(table, start[0]) for table in start)
    gradients = [table.grad for table in tables]
    assert all(g is not None and g.any() for g in gradients)
    assert not torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [MAE, CONVMAE, SIMMIM, SWIN], ids=lambda c: c.model.method)
def test_drop_path_rises(base: Config) -> None:
    model = classifier(finetuning(base, drop_path=0.3))
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    blocks = sum(hasattr(m, "drop_path1") for m in model.modules())
    expected = [0.3 * i / (blocks - 1) for i in range(1, blocks) for _ in (1, 2)]
    assert blocks > 1 and rates == pytest.approx(expected, rel=1e-6)
    pixels_BCHW, targets_BK = normalised(images(base.data.size)), torch.full((4, 5), 0.2)
    # a head without weights sees nothing of it
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    epochs_B, ids_B = DRAWN

    def loss(first_id: int) -> float:
        return float(model(pixels_BCHW, targets_BK, epochs_B, ids_B + first_id).detach())

    assert loss(0) == loss(0) != loss(40)
    model.eval()
    assert loss(0) == loss(40)
    # both branches of every block go through it: with both dropped a block changes nothing
    same: list[bool] = []
    for block in (m for m in model.modules() if hasattr(m, "drop_path1")):
        block.drop_path1, block.drop_path2 = Nought(), Nought()
        block.register_forward_hook(lambda _, inputs, out: same.append(torch.equal(inputs[0], out)))
    model.logits(pixels_BCHW)
    assert same == [True] * blocks


def test_the_head_begins_as_published() -> None:
    wide = dataclasses.replace(MAE.model, width=768, heads=12, depth=1)
    config = finetuning(dataclasses.replace(MAE, model=wide))
    config = dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, classes=1000))
    weight = classifier(config).head.weight.detach()
    assert float(weight.std()) == pytest.approx(2e-5, rel=0.01) and float(weight.abs().max()) > 6e-5
    cut = dataclasses.replace(SIMMIM.model, width=768, heads=12, depth=1)
    config = dataclasses.replace(config, model=cut, data=SIMMIM.data)
    assert float(classifier(config).head.weight.detach().abs().max()) <= 2e-5


def test_convmae_is_as_large_as_published() -> None:
    model = ModelConfig(method="convmae", depth=11, decoder_width=64, decoder_depth=1)
    config = FinetuneConfig(data=DataConfig(size=224), model=model, finetune=FinetuneSettings(classes=1000))
    assert (
        sum(p.numel() for n, p in classifier(config).named_parameters() if "mask_token" not in n)
        == 85_374_824
    )


def of_label(label: int) -> list[float]:
    """A smoothed target of four classes: 0.1 over all alike, 0.9 of the class."""
    return [0.1 / 4 + 0.9 * (k == label) for k in range(4)]


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "none"])
def test_mixed_targets_are_the_written_out_formula(kind: str) -> None:
    settings = FinetuneSettings(
        classes=4, mixup=0.8 * (kind == "mixup"), cutmix=1.0 * (kind == "cutmix"), smoothing=0.1
    )
    labels = [0, 1, 3, 3]
    g = torch.Generator().manual_seed(0)
    before = torch.randn(4, 3, 20, 20, generator=g)
    seen = set()
    for word in range(20):
        after, targets_BK = mix_batch(before.clone(), torch.tensor(labels), settings, word)
        if kind == "none":
            assert torch.equal(after, before)
            share = 1.0
        elif kind == "mixup":
            share = float(((after[0] - before[3]) / (before[0] - before[3])).median())
            expected = share * before + (1 - share) * before.flip(0)
            torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)
        else:
            kept = after == before
            share = float(kept[0].float().mean())
            assert torch.equal(after, torch.where(kept[:, :1], before, before.flip(0)))
        wanted = [
            [share * a + (1 - share) * b for a, b in zip(of_label(mine), of_label(other), strict=True)]
            for mine, other in zip(labels, labels[::-1], strict=True)
        ]
        torch.testing.assert_close(targets_BK, torch.tensor(wanted), rtol=1e-4, atol=1e-4)
        assert torch.equal(after, mix_batch(before.clone(), torch.tensor(labels), settings, word)[0])
        seen.add(round(share, 3))
    assert len(seen) > 10 or kind == "none"


@pytest.mark.parametrize("sides", [(300, 420), (257, 256), (500, 224)])
def test_test_crops_are_torchvision_s_256_and_224(sides: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((60, 50)).resize(sides[::-1]))
    ours = centre_crop(smooth, CentreCrop(size=224, share=0.875))
    resize = v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC)
    theirs = np.asarray(v2.CenterCrop(224)(resize(Image.fromarray(smooth))))
    assert ours.shape == theirs.shape == (224, 224, 3)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


def test_cross_entropy_without_mixing_is_label_smoothing() -> None:
    settings = FinetuneSettings(classes=4, mixup=0, cutmix=0, smoothing=0.2)
    labels = torch.tensor([0, 3])
    _, targets_BK = mix_batch(torch.zeros(2, 3, 4, 4), labels, settings, 0)
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        functional.cross_entropy(logits, targets_BK),
        functional.cross_entropy(logits, labels, label_smoothing=0.2),
    )
