"""One model on images of several sizes: masks, targets and positions of each size.

Planted, each seen to fail the test named: coordinates of the small grid itself, or of corners instead of
centres (`test_positions_are_those_of_the_same_places_of_the_full_picture`); the rows of another size, masks
or the target of full size (`test_a_small_image_is_seen_as_by_a_model_of_its_size`).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs import config_for
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from turbomim.train.models.masked import Masked
from turbomim.train.models.methods import make_model
from turbomim.train.models.vit import sincos_positions
from turbomim.train.settings.config import Config

SIZES = "16:0.3,24:0.3"


def sized(tmp_path: Path, sizes: str = SIZES, **model: Any) -> Config:
    return config_for(tmp_path, tmp_path, data={"sizes": sizes}, model={"patch": 4, **model})


def inputs(size: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    images_BHWC = torch.randint(0, 256, (6, size, size, 3), dtype=torch.uint8, generator=generator)
    return images_BHWC, torch.arange(6) // 2, torch.arange(6)


def test_positions_are_those_of_the_same_places_of_the_full_picture() -> None:
    """Of 8 patches a side, the centre of the i-th of 4 lies between those of patches 2 i and 2 i + 1."""
    small_1TD = sincos_positions(16, 4, of=8)
    frequencies = [10000 ** (-k / 4) for k in range(4)]
    for row, column in itertools.product(range(4), range(4)):
        x, y = 2 * column + 0.5, 2 * row + 0.5
        waves = [(wave, at) for at in (x, y) for wave in (math.sin, math.cos)]
        right = [wave(at * frequency) for wave, at in waves for frequency in frequencies]
        assert small_1TD[0, 1 + 4 * row + column].tolist() == pytest.approx(right, abs=1e-6)
    assert not small_1TD[0, 0].any()
    # of the full grid bit for bit the table that there was
    assert torch.equal(sincos_positions(16, 8, of=8), sincos_positions(16, 8))


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"target": "ideal", "radius": 12.0},
        {"mask_unit": 2},
        {"mask": "block"},
        {"method": "mff", "fuse": "0,1"},
        {"complementary": True},
    ],
    ids=lambda model: ", ".join(map(str, model.values())) or "mae",
)
def test_a_small_image_is_seen_as_by_a_model_of_its_size(model: dict[str, Any], tmp_path: Path) -> None:
    """Bit for bit, loss and gradients, once that one has the positions of the same places."""
    config = sized(tmp_path, **model)
    several = make_model(config)
    for own in (
        *config.smaller(),
        dataclasses.replace(config, data=dataclasses.replace(config.data, sizes="")),
    ):
        alone = make_model(own, initial=False)
        weights = several.state_dict()
        assert weights.keys() == alone.state_dict().keys()
        for name in ("pos_embed", "decoder_pos_embed"):
            weights[name] = sincos_positions(weights[name].shape[-1], own.grid, of=config.grid)
        alone.load_state_dict(weights)
        losses = []
        for each in (several, alone):
            each.zero_grad()
            losses.append(each(*inputs(own.data.size)))
            losses[-1].backward()
        assert losses[0].item() == losses[1].item(), own.data.size
        for (name, one), other in zip(several.named_parameters(), alone.parameters(), strict=True):
            if one.requires_grad:
                assert one.grad is not None and other.grad is not None
                assert torch.equal(one.grad, other.grad), name


def test_without_sizes_nothing_is_added(tmp_path: Path) -> None:
    """The same weights under the same names; no table beside them."""
    plain, several = make_model(sized(tmp_path, "")), make_model(sized(tmp_path))
    assert not list(plain.buffers())
    assert plain.positions("pos_embed", 1).data_ptr() == plain.pos_embed[0, 1:].data_ptr()
    ours = several.state_dict()
    assert list(plain.state_dict()) == list(ours)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ours[name]), name


def test_one_graph_a_size(tmp_path: Path) -> None:
    """Sizes that come again are not compiled again, and the graph's losses are those without one."""
    model: Masked = make_model(sized(tmp_path))
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=counter)
    for size in (16, 16, 24, 32, 24, 16, 32):
        assert compiled(*inputs(size)).item() == model(*inputs(size)).item()
    assert counter.frame_count == 3
