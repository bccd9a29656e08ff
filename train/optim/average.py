"""The exponential moving average of the weights, `optim.ema`: what is scored and exported, not trained on.

After step t, the first being 0, with d = min(decay, (1 + t) / (10 + t)):

    average ← d · average + (1 - d) · weights

So the average forgets the initial weights within some steps.  A step that is not finite leaves it as it is.
Source: Polyak and Juditsky 1992 for averages; d as tensorflow's ExponentialMovingAverage has it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from turbomim.pipeline.system.errors import UserError
from turbomim.train.models.sharding import own_part


class Average:
    """The average of a model's trained weights, float32, on their device and split over ranks as they are.

    decay: 0 = there is none, and nothing here does anything.  Every rank has its own, and they agree without
    an exchange: so do the weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        named = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
        # what training goes on with, and its average, by the parameters' names
        self.trained = {name: param.detach() for name, param in named if decay}
        self.tensors = {name: param.clone() for name, param in self.trained.items()}
        self._weights, self._averages = (
            [own_part(tensor) for tensor in tensors.values()] for tensors in (self.trained, self.tensors)
        )

    @torch.no_grad()
    def update(self, step: int, skipped: Tensor) -> None:
        """Take the weights after a step into the average; skipped: 1 if the step was not taken, () on device.

        It does not wait for the device.
        """
        if self._averages:
            share = (1 - skipped) * (1 - min(self._decay, (1 + step) / (10 + step)))
            torch._foreach_lerp_(self._averages, self._weights, [share] * len(self._averages))

    @torch.no_grad()
    def begin(self) -> None:
        """Begin anew, with the model's weights."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.copy_(weight)

    @torch.no_grad()
    def go_on_with(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model the weights of a checkpoint that training goes on with; nothing if there are none.

        Raises UserError if they are another model's.
        """
        for name, weight in self.trained.items() if weights else ():
            if name not in weights or weights[name].shape != weight.shape:
                raise UserError(
                    f"checkpoint's trained weights belong to another model: {name!r} does not match"
                )
            weight.copy_(weights[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within it the model has the average; no step is taken meanwhile."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self._averages, self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        if self._averages:
            # whole weights that a forward has gathered are others now
            for module in self._model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
