"""The memory of a training step, predicted from the settings.

What the backward pass needs of the forward is counted in a forward of tensors that have shapes and no
storage: of any method, in seconds, on any machine.
"""

import contextlib
import functools
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from turbomim.train.machine.memory import GIB
from turbomim.train.models.mae import MAE
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.optim.state import STEP, kept_names
from turbomim.train.settings.config import Config

# batches between which memory is a straight line; with one image some copies are not made
FEW, MANY = 2, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """Numbers of a model: what the optimizer changes and keeps, and the fixed position embeddings."""

    trained: int
    fixed: int
    # numbers that are kept of the trained ones: by the optimizer, without counts of steps, and the average
    kept: int


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

    def in_words(self) -> str:
        """As people read it, in GiB or MiB: "4.7 GiB = weights 0.4 + gradients 0.4 + …"."""
        unit, name = (GIB, "GiB") if self.total >= GIB else (2**20, "MiB")
        parts = " + ".join(f"{f.name} {getattr(self, f.name) / unit:.1f}" for f in fields(self))
        return f"{self.total / unit:.1f} {name} = {parts}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BytesOfBatch:
    """Bytes that are a straight line of the batch: `fixed`, copies of weights, and `image` for each image."""

    fixed: int
    image: int

    def of(self, batch: int) -> int:
        """The bytes of so many images."""
        return self.fixed + batch * self.image


@functools.cache
def count_parameters(config: Config) -> Parameters:
    """Numbers of the model of these settings."""
    model, _ = _model_without_storage(config)
    params = list(model.parameters())
    trained = sum(param.numel() for param in params if param.requires_grad)
    keys = kept_names(make_optimizer(model, config.optim))
    averages = trained if config.optim.ema else 0
    return Parameters(
        trained=trained,
        fixed=sum(param.numel() for param in params) - trained,
        kept=averages + sum(param.numel() * len(set(names) - {STEP}) for param, names in keys.items()),
    )


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a checkpoint of these settings, by name."""
    model, _ = _model_without_storage(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


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

    Float32 weights, gradients and moments, and with these the average of `optim.ema`; activations as torch's
    autograd keeps them, much the same compiled and not, with matrix products in bfloat16 or float32; the
    uint8 images of one micro-batch.
    recompute: blocks keep their input alone, and one at a time is computed again: the one that keeps most.
    shards: ranks that share weights, gradients and moments out between them; gradients of several micro-steps
    alone stay whole.
    Left out: the loader's and DALI's buffers, and what torch and the libraries take for themselves.
    """
    parameters = count_parameters(config)
    kept, blocks = kept_of_forward(config, bfloat16=bfloat16, recompute=False)
    activations = kept.of(micro_batch)
    if recompute:
        inputs, _ = kept_of_forward(config, bfloat16=bfloat16, recompute=True)
        activations = inputs.of(micro_batch) + max(block.of(micro_batch) for block in blocks)
    return MemoryParts(
        weights=4 * (parameters.trained + parameters.fixed) // shards,
        gradients=4 * parameters.trained // (shards if micro_steps == 1 else 1),
        moments=4 * parameters.kept // shards,
        activations=activations,
        batch=micro_batch * 3 * config.data.size**2,
    )


@functools.cache
def kept_of_forward(
    config: Config, *, bfloat16: bool, recompute: bool
) -> tuple[BytesOfBatch, tuple[BytesOfBatch, ...]]:
    """What a forward keeps for its backward, and of this what each of `blocks_to_split` adds.

    As on a CPU, whose attention keeps as much as a GPU's.
    """
    model, mode = _model_without_storage(config)
    model.recompute = recompute
    size = config.data.size
    few, many = (_kept_in_a_forward(model, mode, batch, size, bfloat16=bfloat16) for batch in (FEW, MANY))
    whole, *blocks = (_line(at_few, at_many) for at_few, at_many in zip(few, many, strict=True))
    return whole, tuple(blocks)


def _line(at_few: int, at_many: int) -> BytesOfBatch:
    image = (at_many - at_few) // (MANY - FEW)
    return BytesOfBatch(fixed=at_few - FEW * image, image=image)


def _kept_in_a_forward(
    model: MAE, mode: FakeTensorMode, batch: int, size: int, *, bfloat16: bool
) -> list[int]:
    """Bytes that the forward of a batch of images of `size` pixels keeps, then those that each block adds."""
    storages: dict[int, torch.UntypedStorage] = {}
    before: dict[nn.Module, int] = {}
    added: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # held, so that no address is used twice
        storages[storage._cdata] = storage
        return tensor

    def kept() -> int:
        return sum(storage.nbytes() for key, storage in storages.items() if key not in own)

    def begin(block: nn.Module, *_: object) -> None:
        before[block] = kept()

    def end(block: nn.Module, *_: object) -> None:
        added.append(kept() - before[block])

    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    with mode, contextlib.ExitStack() as hooks:
        for block in model.blocks_to_split():
            hooks.callback(block.register_forward_pre_hook(begin).remove)
            hooks.callback(block.register_forward_hook(end).remove)
        images_BHWC = torch.zeros(batch, size, size, 3, dtype=torch.uint8)
        numbers_B = torch.arange(batch)
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            model(images_BHWC, numbers_B, numbers_B)
    return [kept(), *added]


# to build a model takes as long as a forward; the last one is kept
@functools.lru_cache(maxsize=1)
def _model_without_storage(config: Config) -> tuple[MAE, FakeTensorMode]:
    """A model of these settings, with any weights, and the mode that its forward must run in."""
    mode = FakeTensorMode()
    try:
        with mode:
            return make_model(config, initial=False), mode
    except DataDependentOutputException:
        # some code, timm's Swin for one, reads a tensor's numbers while it builds a model
        # torch has no annotation of it
        built = make_model(config, initial=False)
        model: MAE = built._apply(mode.from_tensor)  # type: ignore[no-untyped-call]
        return model, mode
