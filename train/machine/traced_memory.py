"""Parameters and kept activations of any method, found with tensors that have shapes and no storage.

For methods whose shapes `memory.py` does not write out.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.settings.config import Config

# batches between which memory is a straight line; with one image some copies are not made
FEW, MANY = 2, 4


def _model(config: Config, mode: FakeTensorMode) -> MAE:
    """The model without storage."""
    try:
        with mode:
            return make_model(config)
    except DataDependentOutputException:
        # some code, timm's Swin for one, reads a tensor's numbers while it builds a model
        # torch has no annotation of it
        model: MAE = make_model(config)._apply(mode.from_tensor)  # type: ignore[no-untyped-call]
        return model


@functools.cache
def traced_parameters(config: Config) -> tuple[int, int]:
    """Numbers of the model that the optimizer changes, and those that stay."""
    params = list(_model(config, FakeTensorMode()).parameters())
    trained = sum(param.numel() for param in params if param.requires_grad)
    return trained, sum(param.numel() for param in params) - trained


@functools.cache
def traced_activations(config: Config, *, bfloat16: bool, recompute: bool) -> tuple[int, int]:
    """Bytes that a step keeps whatever the batch, copies of weights, and those that it keeps for each image.

    As on a CPU, whose attention keeps as much as a GPU's.  recompute: the block that keeps most is added, as
    one at a time is computed again.
    """
    few, many = (_of_batch(config, batch, bfloat16=bfloat16, recompute=recompute) for batch in (FEW, MANY))
    image = (many - few) // (MANY - FEW)
    return few - FEW * image, image


def _of_batch(config: Config, batch: int, *, bfloat16: bool, recompute: bool) -> int:
    kept, largest = _trace(config, batch, bfloat16=bfloat16, recompute=False)
    if not recompute:
        return kept
    return _trace(config, batch, bfloat16=bfloat16, recompute=True)[0] + largest


def _trace(config: Config, batch: int, *, bfloat16: bool, recompute: bool) -> tuple[int, int]:
    """Bytes kept of the forward of a batch, and the most that one block adds to them."""
    config = dataclasses.replace(config, step=dataclasses.replace(config.step, recompute=recompute))
    storages: dict[int, torch.UntypedStorage] = {}
    added = [0]

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # held, so that no address is used twice
        storages[storage._cdata] = storage
        return tensor

    def kept() -> int:
        return sum(storage.nbytes() for key, storage in storages.items() if key not in own)

    def begin(*_: object) -> None:
        added.append(-kept())

    def end(*_: object) -> None:
        added[-1] += kept()

    mode = FakeTensorMode()
    model = _model(config, mode)
    with mode:
        own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        for block in model.blocks_to_split():
            block.register_forward_pre_hook(begin)
            block.register_forward_hook(end)
        images_BHWC = torch.zeros(batch, config.data.size, config.data.size, 3, dtype=torch.uint8)
        numbers_B = torch.arange(batch)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            model(images_BHWC, numbers_B, numbers_B)
    return kept(), max(added)
