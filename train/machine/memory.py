"""The memory of a training step, predicted from the settings, and what a process really took.

Shapes: T tokens, D width of a block, A heads, N patches, K kept, M masked, P values of a patch.
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from turbomim.train.settings.config import Config

GIB = 2**30

_MEMINFO, _CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """Numbers of a model: what the optimizer changes, and the fixed position embeddings."""

    trained: int
    fixed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryParts:
    """Bytes that one rank's step needs.

    activations: what the backward pass keeps of the forward, with bfloat16 copies of the weights.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    batch: int

    @property
    def total(self) -> int:
        """All of it: a little more than the most at one time, as gradients come while activations go."""
        return self.weights + self.gradients + self.moments + self.activations + self.batch

    def text(self) -> str:
        """As people read it, in GiB or MiB."""
        unit, name = (GIB, "GiB") if self.total >= GIB else (2**20, "MiB")
        parts = " + ".join(f"{f.name} {getattr(self, f.name) / unit:.1f}" for f in fields(self))
        return f"{self.total / unit:.1f} {name} = {parts}"


def count_parameters(config: Config) -> Parameters:
    """Numbers of the model of these settings; an MAE's without building it."""
    model = config.model
    if model.method != "mae":
        # the model's code takes seconds to import
        from turbomim.train.machine.traced_memory import traced_parameters

        trained, fixed = traced_parameters(config)
        return Parameters(trained=trained, fixed=fixed)
    width, narrow, values = model.width, model.decoder_width, 3 * model.patch**2
    trained = (
        width * (values + 1) + width
        + model.depth * _block_parameters(width) + 2 * width
        + narrow * (width + 1) + narrow
        + model.decoder_depth * _block_parameters(narrow) + 2 * narrow
        + values * (narrow + 1)
    )  # fmt: skip
    return Parameters(trained=trained, fixed=(config.patches + 1) * (width + narrow))


def _block_parameters(width: int) -> int:
    return 12 * width**2 + 13 * width


def predicted_bytes(
    config: Config,
    micro_batch: int,
    *,
    bfloat16: bool,
    recompute: bool,
    shards: int = 1,
    micro_steps: int = 1,
) -> MemoryParts:
    """Memory of a step over micro-batches of this size on one rank.

    Float32 weights, gradients and AdamW moments; activations as torch's autograd keeps them, much the same
    compiled and not, with matrix products in bfloat16 or float32; the uint8 images of one micro-batch.
    An MAE's are written out here; those of other methods are counted in a forward without data.
    recompute: blocks keep their input alone, and one at a time is computed again.  shards: ranks that share
    weights, gradients and moments out between them; gradients of several micro-steps alone stay whole.
    Left out: the loader's and DALI's buffers, and what torch and the libraries take for themselves.
    """
    parameters = count_parameters(config)
    if config.model.method == "mae":
        fixed = 2 * parameters.trained if bfloat16 else 0
        image = _image_activations(config, bfloat16=bfloat16, recompute=recompute)
    else:
        from turbomim.train.machine.traced_memory import traced_activations

        fixed, image = traced_activations(config, bfloat16=bfloat16, recompute=recompute)
    return MemoryParts(
        weights=4 * (parameters.trained + parameters.fixed) // shards,
        gradients=4 * parameters.trained // (shards if micro_steps == 1 else 1),
        moments=8 * parameters.trained // shards,
        activations=fixed + micro_batch * image,
        batch=micro_batch * 3 * config.data.size**2,
    )


def _image_activations(config: Config, *, bfloat16: bool, recompute: bool) -> int:
    """Bytes that one image's forward through an MAE leaves for its backward."""
    model = config.model
    width, narrow, values = model.width, model.decoder_width, 3 * model.patch**2
    seen, every, masked = config.keep + 1, config.patches + 1, config.patches - config.keep
    # bytes of a number of a matrix product; the residual stream is float32
    half = 2 if bfloat16 else 4
    # the last decoder block's MLP sees masked tokens alone
    blocks = [
        *model.depth * [_attention(seen, width, model.heads, half) + _mlp(seen, width, half)],
        *(model.decoder_depth - 1)
        * [_attention(every, narrow, model.decoder_heads, half) + _mlp(every, narrow, half)],
        _attention(every, narrow, model.decoder_heads, half) + _mlp(masked, narrow, half),
    ]
    kept = sum(blocks)
    if recompute:
        inputs = 4 * (model.depth * seen * width + model.decoder_depth * every * narrow)
        kept = inputs + max(blocks)
    embedding = config.keep * values * half
    encoder_norm = seen * (width * (4 + half) + 8)
    decoder_norm = masked * (narrow * (4 + half) + 8)
    difference = 4 * masked * values
    return kept + embedding + encoder_norm + decoder_norm + difference


def _attention(tokens: int, width: int, heads: int, half: int) -> int:
    """Block input and its norm; queries, keys, values; output; statistics of the norm and the softmax."""
    return tokens * (width * (4 + 5 * half) + 8 + 4 * heads)


def _mlp(tokens: int, width: int, half: int) -> int:
    """Its input and the norm of that; four times as wide before and after GELU; statistics of the norm."""
    return tokens * (width * (4 + 9 * half) + 8)


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process held up to now: reserved by torch on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_bytes(device: torch.device) -> int:
    """Memory that a process may fill: of the GPU, or what this machine, or its container, has left."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    free = int(re.findall(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)[0]) * 1024
    limit = container_limit()
    return free if limit is None else min(free, limit)


def container_limit() -> int | None:
    """Bytes that this process's control group may hold, None without a limit."""
    limit = _CONTAINER.read_text().strip() if _CONTAINER.exists() else "max"
    return int(limit) if limit.isdecimal() else None
