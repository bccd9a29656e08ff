"""Predicted memory against what torch's autograd really keeps, and parameter counts against real models.

Planted bugs, and the test that each makes fail: GELU's output or the loss's difference left out:
`test_activations_are_what_autograd_keeps`; recomputed blocks counted as kept:
`test_recomputation_keeps_block_inputs_and_one_block`; the recomputed block chosen for a small batch:
`test_the_recomputed_block_is_the_largest_of_the_batch`; weights counted as activations, what no image adds to
counted for each, the recomputed block left out: `test_every_method_is_counted_in_a_forward_without_data`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.runs import OPTIMIZERS
from torch import Tensor

from turbomim.train.machine.predicted_memory import count_parameters, kept_of_forward, predicted_bytes
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import METHODS, make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import Config, DataConfig, StepConfig
from turbomim.train.settings.model import ModelConfig
from turbomim.train.settings.optim import OptimConfig

TINY = ModelConfig(width=192, depth=12, heads=3, decoder_width=128, decoder_depth=2, decoder_heads=4)
SMALL = ModelConfig(width=384, depth=12, heads=6, decoder_width=256, decoder_depth=4, decoder_heads=8)
FUSED = dataclasses.replace(TINY, method="mff", depth=4, fuse="0,1,3")
LITTLE = ModelConfig(
    patch=8, width=64, depth=2, heads=4, decoder_width=32, decoder_depth=1, decoder_heads=4,
    target="gaussian", radius=10.0,
)  # fmt: skip


def kept_bytes(model: MAE, run: Callable[[], Tensor]) -> int:
    """Bytes of the storages, other than the model's own, that a forward leaves for its backward."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    storages: dict[int, int] = {}
    held: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            # so that no address is used twice
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storages.values())


def forward(config: Config, batch: int, *, bfloat16: bool) -> tuple[MAE, Callable[[], Tensor]]:
    model, size = make_model(config), config.data.size
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    numbers = torch.arange(batch)

    def run() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss: Tensor = model(images, 0 * numbers, numbers)
        return loss

    return model, run


@pytest.mark.parametrize(
    ("model", "size", "batch", "bfloat16"),
    [
        (TINY, 224, 2, False),
        (SMALL, 224, 2, False),
        (LITTLE, 32, 8, False),
        (LITTLE, 64, 8, True),
        (dataclasses.replace(TINY, depth=2), 96, 4, True),
    ],
    ids=["tiny", "small", "little", "little bfloat16", "tiny bfloat16"],
)
def test_activations_are_what_autograd_keeps(
    model: ModelConfig, size: int, batch: int, bfloat16: bool
) -> None:
    config = Config(model=model, data=DataConfig(size=size))
    predicted = predicted_bytes(config, batch, bfloat16=bfloat16, recompute=False).activations
    assert predicted == pytest.approx(kept_bytes(*forward(config, batch, bfloat16=bfloat16)), rel=0.01)


def test_recomputation_keeps_block_inputs_and_one_block() -> None:
    shallow, deep = (
        Config(model=dataclasses.replace(TINY, depth=depth), step=StepConfig(recompute=True))
        for depth in (2, 8)
    )
    kept = [kept_bytes(*forward(config, 2, bfloat16=False)) for config in (shallow, deep)]
    predicted = [
        predicted_bytes(config, 2, bfloat16=False, recompute=True).activations for config in (shallow, deep)
    ]
    assert predicted[1] - predicted[0] == pytest.approx(kept[1] - kept[0], rel=0.01), "six blocks' inputs"
    plain = dataclasses.replace(shallow, step=StepConfig())
    # the largest block, in full: computed again while the others wait
    whole = kept_bytes(*forward(plain, 2, bfloat16=False))
    assert kept[0] < predicted[0] < whole


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("model", [TINY, FUSED, dataclasses.replace(LITTLE, method="mff", fuse="1")])
def test_every_method_is_counted_in_a_forward_without_data(model: ModelConfig, bfloat16: bool) -> None:
    config = Config(model=model, data=DataConfig(size=96))
    kept = kept_bytes(*forward(config, 5, bfloat16=bfloat16))
    assert predicted_bytes(config, 5, bfloat16=bfloat16, recompute=False).activations == pytest.approx(
        kept, rel=0.01
    )
    again = dataclasses.replace(config, step=StepConfig(recompute=True))
    inputs = kept_bytes(*forward(again, 5, bfloat16=bfloat16))
    block = predicted_bytes(again, 5, bfloat16=bfloat16, recompute=True).activations - inputs
    # one block of the encoder or the decoder, of all of them
    assert 0 < block < (kept - inputs) / 2 + 1


def test_the_recomputed_block_is_the_largest_of_the_batch() -> None:
    """Of few images an encoder's, for its weights in bfloat16; of many a decoder's, for its tokens."""
    config = Config(step=StepConfig(recompute=True))
    depth = config.model.depth
    inputs, _ = kept_of_forward(config, bfloat16=True, recompute=True)
    _, blocks = kept_of_forward(config, bfloat16=True, recompute=False)
    for batch, decoders in ((2, False), (64, True)):
        predicted = predicted_bytes(config, batch, bfloat16=True, recompute=True).activations
        added = [block.of(batch) for block in blocks]
        assert predicted == inputs.of(batch) + max(added)
        assert (added.index(max(added)) >= depth) is decoders


def test_a_model_that_reads_numbers_while_it_is_built_is_counted_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reading(MAE):
        def make_encoder(self, config: Config) -> None:
            assert torch.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
            super().make_encoder(config)

    monkeypatch.setitem(METHODS, "reading", Reading)
    plain = Config(model=LITTLE, data=DataConfig(size=32))
    config = dataclasses.replace(plain, model=dataclasses.replace(LITTLE, method="reading"))
    assert count_parameters(config) == count_parameters(plain)
    for recompute in (False, True):
        found, known = (
            kept_of_forward(each, bfloat16=False, recompute=recompute) for each in (config, plain)
        )
        assert found == known


def test_fusion_keeps_the_sum_before_the_norm_and_the_scaled_matrices() -> None:
    """The levels are inputs of blocks, which are kept anyway."""
    plain = dataclasses.replace(FUSED, method="mae", fuse=ModelConfig().fuse)
    fused, alone = (
        kept_of_forward(Config(model=model), bfloat16=False, recompute=False)[0] for model in (FUSED, plain)
    )
    assert fused.image - alone.image == 50 * 192 * 4
    assert fused.fixed - alone.fixed == pytest.approx(2 * 192**2 * 4, rel=0.01)


@pytest.mark.parametrize("model", [TINY, LITTLE, FUSED])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_gradients_and_moments(model: ModelConfig, name: Any) -> None:
    config = Config(model=model, data=DataConfig(size=32), optim=OptimConfig(name=name))
    net = make_model(config)
    count = count_parameters(config)
    assert count.trained == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert count.fixed == sum(p.numel() for p in net.parameters() if not p.requires_grad)
    optimizer = make_optimizer(net, config.optim)
    for param in net.parameters():
        if param.requires_grad:
            param.grad = torch.zeros_like(param)
    optimizer.step()
    kept = [pair for state in optimizer.state.values() for pair in state.items()]
    moments = sum(value.nbytes for key, value in kept if key != "step")
    parts = predicted_bytes(config, 4, bfloat16=False, recompute=False)
    assert (parts.weights, parts.moments) == (sum(p.nbytes for p in net.parameters()), moments)
    assert parts.gradients == sum(p.grad.nbytes for p in net.parameters() if p.grad is not None)
    assert parts.batch == 4 * 32 * 32 * 3
    halves = predicted_bytes(config, 4, bfloat16=False, recompute=False, shards=2)
    assert (halves.weights, halves.activations) == (parts.weights // 2, parts.activations)
    # each rank keeps all of what it adds up, until the last micro-step's is sent
    added = predicted_bytes(config, 4, bfloat16=False, recompute=False, shards=2, micro_steps=2)
    assert (halves.gradients, added.gradients) == (parts.gradients // 2, parts.gradients)
    assert (added.weights, added.moments) == (halves.weights, halves.moments)


def test_the_published_sizes() -> None:
    """Parameters of MAE's encoders and decoder as published: 111.9, 329.5 and 657.1 million."""
    sizes: list[dict[str, Any]] = [
        {},
        {"width": 1024, "depth": 24, "heads": 16},
        {"width": 1280, "depth": 32, "heads": 16, "patch": 14},
    ]
    counts = [count_parameters(Config(model=ModelConfig(**size))) for size in sizes]
    assert [round((c.trained + c.fixed) / 1e6, 1) for c in counts] == [111.9, 329.5, 657.1]
