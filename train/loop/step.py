"""The training step: compiled forward and backward over micro-batches, finite check, the optimizer's update.

No host synchronisation, but LAMB's and LARS's own: the metrics it returns are device tensors.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from turbomim.pipeline.batch import Batch
from turbomim.pipeline.reading.memory import keep_freed
from turbomim.train.loop.profiling import part
from turbomim.train.models.sharding import whole
from turbomim.train.settings.config import StepConfig
from turbomim.train.settings.precision import uses_bfloat16
from turbomim.train.world.distributed import World


def autocast(step: StepConfig, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of forward passes.  The weights stay float32."""
    if uses_bfloat16(step, device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


# DDP's argument that broadcasts rank 0's buffers in every forward pass: renamed after torch 2.11
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_NO_BROADCAST: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}

# what the loss is computed from
Inputs = Callable[[Batch], tuple[Tensor, ...]]


def masked_inputs(batch: Batch) -> tuple[Tensor, ...]:
    """What a masked autoencoder's loss is computed from: images, and what its masks are drawn from."""
    return batch.images_BHWC, batch.epochs_B, batch.ids_B


class Step:
    """One optimizer step over the micro-batches of a rank.

    inputs: makes the model's arguments from a batch, outside the compiled graph.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: StepConfig,
        world: World,
        micro_steps: int,
        clip_grad: float = 0.0,
        inputs: Inputs = masked_inputs,
    ) -> None:
        self.inputs = inputs
        self.optimizer, self.config, self.world, self.micro_steps = optimizer, config, world, micro_steps
        self.clip_grad = clip_grad
        self.params = [p for p in model.parameters() if p.requires_grad]
        if world.device.type == "cpu":
            keep_freed()
        if config.compile:
            # torch's builder of extensions warns on a CPU machine that has CUDA's compiler
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        # FSDP exchanges gradients itself, and its blocks are compiled already
        self.loss_fn = model if isinstance(model, FSDPModule) else self._compiled_in_ddp(model)

    def _compiled_in_ddp(self, model: nn.Module) -> nn.Module:
        """The model as it is called: compiled if `step.compile`, in DDP where there are several ranks."""
        config, device = self.config, self.world.device
        if config.compile:
            # DDP splits the graph at its buckets, so that gradients are exchanged while others are computed
            mode = config.compile_mode
            model = torch.compile(model, fullgraph=True, dynamic=False, mode=mode)  # type: ignore[assignment]
        if self.world.size == 1:
            return model
        # DDP warns of tensors of one row, like the class token, whose stride is of no matter
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        return DistributedDataParallel(
            model,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            # no buffer changes in training: Swin's are constants
            **_NO_BROADCAST,
            # a graph that DDP splits, and micro-steps without an exchange, are no static graph
            static_graph=not config.compile and self.micro_steps == 1,
        )

    def __call__(self, batches: Iterable[Batch], lr: float) -> tuple[Tensor, Tensor, Tensor]:
        """Take one step at rate `lr`, times each group's own scale.

        Returns (loss, gradient norm before clipping, skipped), () float32 on the device, equal on every rank.

        A step whose loss or gradient is not finite leaves weights and moments untouched and returns skipped =
        1.
        """
        loss = self.world.mean(self.backward(batches))
        with part("optimizer"):
            norm = whole(torch.nn.utils.get_total_norm([p.grad for p in self.params if p.grad is not None]))
            skipped = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()
            for group in self.optimizer.param_groups:
                # layer decay's scale, where there is one
                group["lr"] = lr * group.get("lr_scale", 1.0)
            if self.clip_grad:
                # the fused kernel divides gradients by it on the device (torch made that for its GradScaler);
                # as torch's clip_grad_norm_ with its 1e-6
                scale = ((norm + 1e-6) / self.clip_grad).clamp(min=1)
                self.optimizer.grad_scale = scale  # type: ignore[attr-defined]
            # the fused kernel reads this flag on the device and leaves weights, moments and step count alone
            self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
            self.optimizer.step()
        return loss, norm, skipped

    def backward(self, batches: Iterable[Batch]) -> Tensor:
        """Fill the gradients of the mean loss of the micro-batches; returns that of this rank, () float32."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.world.device)
        for number, batch in enumerate(batches, start=1):
            with self._exchanging(number == self.micro_steps):
                with part("forward"), autocast(self.config, self.world.device):
                    # a new tensor: the next replay of a CUDA graph overwrites what this one returned
                    loss = self.loss_fn(*self.inputs(batch)) / self.micro_steps
                with part("backward"):
                    loss.backward()
            total += loss.detach()
        return total

    def _exchanging(self, wanted: bool) -> contextlib.AbstractContextManager[object]:
        """A context in which backward does, or does not, exchange gradients; FSDP is set by the call."""
        if isinstance(self.loss_fn, FSDPModule):
            self.loss_fn.set_requires_gradient_sync(wanted)
        elif isinstance(self.loss_fn, DistributedDataParallel) and not wanted:
            return self.loss_fn.no_sync()
        return contextlib.nullcontext()
