"""Groups of weight decay, and clipping inside the optimizer's kernel.

Planted, each seen to fail the test named: SwinV2's scales decayed, or spared with the slips
(`test_matrices_that_are_spared_from_decay`); gradients scaled up to the limit too, divided by the norm
alone, or by the limit over the norm (`test_a_step_is_that_of_torchs_clipping`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import OPTIMIZERS, config_for, records, run
from tests.train.models.test_simmim import SMALL
from tests.train.models.test_simmim_swin import SMALL as SWIN
from tests.train.models.test_simmim_swin import SMALL_V2

from turbomim.pipeline.batch import Batch
from turbomim.train.folder import checkpoint
from turbomim.train.loop.step import Step
from turbomim.train.models.methods import make_model
from turbomim.train.models.simmim import SimMIM
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import Config
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.world.distributed import World

ALONE = World(device=torch.device("cpu"))
EAGER = dataclasses.replace(SMALL.step, compile=False)


def batch_of(config: Config, images: int, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    size = config.data.size
    pixels = torch.randint(0, 256, (images, size, size, 3), generator=g, dtype=torch.uint8)
    ids = torch.arange(images)
    return Batch(images_BHWC=pixels, labels_B=ids, ids_B=ids, epochs_B=torch.zeros_like(ids), position=0)


@pytest.mark.parametrize(
    ("config", "spared", "slipped"),
    [
        (SMALL, {"cls_token", "mask_token", "relative_position_bias_table"}, {"cls_token"}),
        (SWIN, {"mask_token", "relative_position_bias_table"}, {"mask_token"}),
        (SMALL_V2, {"mask_token", "logit_scale", "0.weight", "2.weight"}, {"mask_token"}),
    ],
    ids=["vit", "swin", "swinv2"],
)
def test_matrices_that_are_spared_from_decay(config: Config, spared: set[str], slipped: set[str]) -> None:
    """Names' ends; SwinV2's numbers are those of the small network that makes its position biases."""
    net = make_model(config)
    for slips, expected in ((False, spared), (True, slipped)):
        optim = OptimConfig(decay_tokens=False, published_slips=slips)
        decayed, others = make_optimizer(net, optim).param_groups
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
        free = {id(p) for p in others["params"]}
        ends = {
            name.split("cpb_mlp.")[-1] if "cpb_mlp" in name else name.rsplit(".", 1)[-1]
            for name, p in net.named_parameters()
            if p.ndim > 1 and id(p) in free
        }
        assert ends == expected
        assert not any(p.ndim <= 1 for p in decayed["params"])


@pytest.mark.parametrize("factor", [0.3, 3.0], ids=["clipped", "not"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_that_of_torchs_clipping(name: str, factor: float) -> None:
    """Twice, as the moments remember what was clipped; the norm that is returned is the one before.

    The rate is small: most singular values of these gradients are rounding, which Muon's directions enlarge a
    thousand times, and AdamW's first steps take the sign of what the second forward pass makes of it.
    """
    rate = 1e-3
    optim = OptimConfig(name=name, decay_tokens=False, base_lr=1.0)  # type: ignore[arg-type]
    nets = [make_model(SMALL) for _ in range(2)]
    batch = batch_of(SMALL, 4)
    loss = nets[0](batch.images_BHWC, batch.epochs_B, batch.ids_B)
    gradients = torch.autograd.grad(loss, list(nets[0].parameters()))
    limit = factor * float(torch.nn.utils.get_total_norm(gradients))
    step = Step(nets[0], make_optimizer(nets[0], optim), EAGER, ALONE, 1, clip_grad=limit)
    other = make_optimizer(nets[1], optim)
    for _ in range(2):
        _, norm, skipped = step([batch], rate)
        other.zero_grad()
        nets[1](batch.images_BHWC, batch.epochs_B, batch.ids_B).backward()
        expected = torch.nn.utils.clip_grad_norm_(nets[1].parameters(), limit)
        for group in other.param_groups:
            group["lr"] = rate
        other.step()
        torch.testing.assert_close(norm, expected)
        assert not float(skipped)
    for name, tensor in nets[1].state_dict().items():
        torch.testing.assert_close(nets[0].state_dict()[name], tensor, atol=1e-6, rtol=1e-4, msg=name)
    moments = zip(step.optimizer.state.values(), other.state.values(), strict=True)
    for ours, theirs in moments:
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, atol=1e-7, rtol=1e-3)


def test_a_step_that_is_not_finite_changes_nothing_when_clipped() -> None:
    net = make_model(SMALL)
    assert isinstance(net, SimMIM)
    step = Step(net, make_optimizer(net, OptimConfig()), EAGER, ALONE, 1, clip_grad=1.0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kept = net.mask_token.detach().clone()
    with torch.no_grad():
        net.mask_token[0, 0, 0] = before["mask_token"][0, 0, 0] = torch.inf
    assert float(step([batch_of(SMALL, 2)], 1e-2)[2]) == 1
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    with torch.no_grad():
        net.mask_token.copy_(kept)
    assert float(step([batch_of(SMALL, 2)], 1e-2)[2]) == 0
    assert not torch.equal(net.mask_token, kept)


def test_ranks_clip_by_the_norm_of_all(trees: Path, tmp_path: Path) -> None:
    """Sharded gradients are divided by the whole norm: losses and moments are those of one rank."""
    losses, moments = [], []
    for number, (world, step) in enumerate([(1, {}), (2, {"shard": True})]):
        runs = tmp_path / str(number)
        runs.mkdir()
        optim = {"epochs": 2, "clip_grad": 0.1}
        run(config_for(trees, runs, optim=optim, step=step), world)
        assert min(r["grad_norm"] for r in records(runs / "r")) > 0.2
        losses.append([r["loss"] for r in records(runs / "r")])
        last = checkpoint.complete(runs / "r" / "ckpt")[0]
        moments.append(load_file(last / checkpoint.FILES[1]))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert moments[0].keys() == moments[1].keys()
    for name, tensor in moments[0].items():
        torch.testing.assert_close(moments[1][name], tensor, atol=1e-7, rtol=1e-3, msg=name)
