"""What ranks send each other in a step and what each reads on resume, counted on two of them.

Planted bugs and the test that fails on each: gradients summed over the ranks in every micro-step, or weights
sent in float32 with bfloat16 products, or a Swin's in bfloat16, fail `test_what_a_sharded_step_sends`; DDP
that broadcasts buffers fails `test_buffers_stay_where_they_are`; a rank that reads all of a checkpoint fails
`test_a_rank_reads_its_own_rows`; a loss that is not divided by the micro-steps fails
`test_compiled_with_recompute_in_buckets`.
"""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from safetensors import safe_open
from tests.runs import as_rank, config_for, finish, launch_ranks
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from turbomim.pipeline.batch import Batch
from turbomim.train.folder import checkpoint
from turbomim.train.loop import step
from turbomim.train.loop.step import Step
from turbomim.train.models import sharding
from turbomim.train.models.methods import make_model
from turbomim.train.optim.make import make_optimizer
from turbomim.train.settings.config import Config
from turbomim.train.world.distributed import World, join_ranks

SAMPLES = 8
MIB = 2**20
SWIN: dict[str, Any] = {
    "method": "simmim-swinv2", "patch": 4, "width": 16, "heads": 2, "stages": "2,2", "window": 4,
    "mask_unit": 2, "norm_pix": False, "target": "raw", "mask_ratio": 0.6,
    # what it does not read, as it was
    "depth": 12, "decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16,
}  # fmt: skip


class Sent(TorchDispatchMode):
    """Counts what is sent: exchanges by name, and the bytes of each kind that a rank puts in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        space, name = str(func.name()).split("::")
        if space == "c10d":
            self.calls[name] += 1
            self.bytes[name] += sum(arg.nbytes for arg in args[1:2] if isinstance(arg, Tensor))
        return func(*args, **(kwargs or {}))


def batches(rank: int, world: int, micro_steps: int) -> list[Batch]:
    """A rank's micro-batches of 8 images, the same 8 for any number of ranks and micro-steps."""
    generator = torch.Generator().manual_seed(0)
    images_BHWC = torch.randint(0, 256, (SAMPLES, 32, 32, 3), generator=generator, dtype=torch.uint8)
    ids_B = torch.arange(SAMPLES)
    every = [
        Batch(images_BHWC=images, labels_B=ids, ids_B=ids, epochs_B=torch.zeros_like(ids), position=0)
        for images, ids in zip(
            images_BHWC.chunk(world * micro_steps), ids_B.chunk(world * micro_steps), strict=True
        )
    ]
    return every[rank * micro_steps : (rank + 1) * micro_steps]


def layer_norm(x: Tensor, shape: list[int], weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As under a GPU's autocast: all in float32.  A CPU's takes no bfloat16 weights with float32 values."""
    return torch.layer_norm(x.float(), shape, weight.float(), bias.float(), eps)


def be_rank(rank: int, world: int, port: int) -> None:
    as_rank(rank, world, port)
    torch.set_num_threads(1)
    functional.layer_norm = layer_norm  # type: ignore[assignment]


def make_step(config: Config, world: World, micro_steps: int) -> Step:
    model = make_model(config)
    if config.step.shard:
        sharding.shard(model, world, config.step, bfloat16=config.step.precision == "bfloat16")
    return Step(model, make_optimizer(model, config.optim), config.step, world, micro_steps)


def on_ranks(target: Any, out: Path, *arguments: Any) -> dict[str, Any]:
    """What rank 0 of two saved."""
    assert [finish(process) for process in launch_ranks(target, 2, out, *arguments)] == [0, 0]
    found: dict[str, Any] = torch.load(out, weights_only=True)
    return found


def count_sent(out: Path, config: Config, micro_steps: int, rank: int, world: int, port: int) -> None:
    be_rank(rank, world, port)
    with join_ranks("cpu", 60) as ranks:
        taken = make_step(config, ranks, micro_steps)
        # the first one sets up what the others keep
        taken(batches(rank, world, micro_steps), 0.0)
        with Sent() as sent:
            taken(batches(rank, world, micro_steps), 0.0)
        if ranks.main:
            torch.save({"calls": dict(sent.calls), "bytes": dict(sent.bytes)}, out)


def sharded(folder: Path, precision: str, **model: Any) -> Config:
    return config_for(folder, folder, step={"shard": True, "precision": precision}, model=model)


def test_what_a_sharded_step_sends(tmp_path: Path) -> None:
    plain = on_ranks(count_sent, tmp_path / "plain", sharded(tmp_path, "float32"), 1)
    twice = on_ranks(count_sent, tmp_path / "twice", sharded(tmp_path, "float32"), 2)
    rounded = on_ranks(count_sent, tmp_path / "rounded", sharded(tmp_path, "bfloat16"), 1)
    gather, scatter = "_allgather_base_", "_reduce_scatter_base_"
    # a group for each of two blocks of the encoder, and the root's with the decoder's only block
    assert plain["calls"][scatter] == twice["calls"][scatter] == 3
    assert plain["bytes"][scatter] == twice["bytes"][scatter] == rounded["bytes"][scatter] > 0
    blocks = sum(p.nbytes for p in make_model(sharded(tmp_path, "float32")).blocks[0].parameters()) * 2
    # forward and backward, two ranks; the root's weights stay float32
    assert plain["bytes"][gather] - rounded["bytes"][gather] == 2 * blocks // 2 // 2

    of_swin = [
        on_ranks(count_sent, tmp_path / precision, sharded(tmp_path, precision, **SWIN), 1)["bytes"][gather]
        for precision in ("float32", "bfloat16")
    ]
    assert of_swin[0] == of_swin[1] > 0


def test_buffers_stay_where_they_are(tmp_path: Path) -> None:
    config = config_for(tmp_path, tmp_path, model=SWIN)
    assert list(make_model(config).buffers())
    assert on_ranks(count_sent, tmp_path / "sent", config, 1)["calls"].keys() == {"allreduce_"}


def gradients_of(config: Config, world: World, micro_steps: int) -> dict[str, Any]:
    taken = make_step(config, world, micro_steps)
    loss = world.mean(taken.backward(batches(world.rank, world.size, micro_steps)))
    return {"loss": loss, "gradients": [p.grad for p in taken.params]}


def save_gradients(out: Path, config: Config, rank: int, world: int, port: int) -> None:
    be_rank(rank, world, port)
    with join_ranks("cpu", 60) as ranks:
        found = gradients_of(config, ranks, 2)
        found["gradients"] = [sharding.whole(gradient) for gradient in found["gradients"]]
        if ranks.main:
            torch.save(found, out)


def test_rounded_weights_give_the_gradients_of_all_ranks(tmp_path: Path) -> None:
    """Norms' weights are rounded when sent, so no more than bfloat16 itself changes."""
    far = []
    for shard in (False, True):
        config = config_for(
            tmp_path, tmp_path, step={"shard": shard, "precision": "bfloat16"}, model={"width": 64}
        )
        far.append(on_ranks(save_gradients, tmp_path / str(shard), config)["gradients"])
    whole, rounded = (torch.cat([gradient.flatten() for gradient in every]) for every in far)
    assert 0 < float((rounded - whole).norm() / whole.norm()) < 0.02


class SmallBuckets(DistributedDataParallel):
    def __init__(self, module: torch.nn.Module, **given: Any) -> None:
        super().__init__(module, bucket_cap_mb=1, **given)


def compiled_in_buckets(out: Path, config: Config, rank: int, world: int, port: int) -> None:
    be_rank(rank, world, port)
    # the backend that traces forward and backward as inductor's does, and needs no C++ compiler
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    # 25 MiB a bucket would be all of this model
    vars(step)["DistributedDataParallel"] = SmallBuckets
    with join_ranks("cpu", 60) as ranks:
        found = gradients_of(config, ranks, 2)
        if ranks.main:
            torch.save(found, out)


def test_compiled_with_recompute_in_buckets(tmp_path: Path) -> None:
    """DDP cuts a compiled graph at its buckets; recomputed blocks are graphs in it (pytorch #104674)."""
    model = {"width": 192, "heads": 3}
    config = config_for(tmp_path, tmp_path, model=model, step={"compile": True, "recompute": True})
    assert sum(p.nbytes for p in make_model(config).parameters()) > 3 * MIB
    found = on_ranks(compiled_in_buckets, tmp_path / "gradients", config)
    alone = World(device=torch.device("cpu"))
    wanted = gradients_of(config_for(tmp_path, tmp_path, model=model), alone, 1)
    assert float(found["loss"]) == pytest.approx(float(wanted["loss"]), abs=1e-6)
    for got, gradient in zip(found["gradients"], wanted["gradients"], strict=True):
        torch.testing.assert_close(got, gradient, atol=1e-6, rtol=1e-4)


class Counting:
    """In place of an open file: counts the values that are read of tensors."""

    read = 0

    def __init__(self, *arguments: Any, **given: Any) -> None:
        self.file: Any = safe_open(*arguments, **given)

    def __enter__(self) -> Self:
        self.file.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)

    def keys(self) -> list[str]:
        return list(self.file.keys())

    def get_tensor(self, name: str) -> Tensor:
        return counted(self.file.get_tensor(name))

    def get_slice(self, name: str) -> Any:
        part = self.file.get_slice(name)

        class Slice:
            get_shape = part.get_shape

            def __getitem__(self, rows: slice) -> Tensor:
                return counted(part[rows])

        return Slice()


def counted(tensor: Tensor) -> Tensor:
    Counting.read += tensor.numel()
    return tensor


def read_back(out: Path, config: Config, rank: int, world: int, port: int) -> None:
    be_rank(rank, world, port)
    with join_ranks("cpu", 60) as ranks:
        taken = make_step(config, ranks, 1)
        model: Any = taken.loss_fn
        taken(batches(rank, world, 1), 1e-3)
        state = checkpoint.State(step=1, position=8, fingerprint="f" * 64, config={}, versions={})
        snapshot = checkpoint.capture(model, taken.optimizer, state, keep=ranks.main)
        path = ranks.broadcast_from_rank0(lambda: str(checkpoint.write(out.parent / "ckpt", snapshot, 1)))
        other = make_step(config, ranks, 1)
        vars(checkpoint)["safe_open"] = Counting
        checkpoint.load(Path(path), other.loss_fn, other.optimizer)
        again = checkpoint.capture(other.loss_fn, other.optimizer, state, keep=ranks.main)
        every = [*snapshot.weights.values(), *snapshot.moments.values()]
        if ranks.main:
            same = all(
                torch.equal(tensor, having[name])
                for kept, having in ((snapshot.weights, again.weights), (snapshot.moments, again.moments))
                for name, tensor in kept.items()
            )
            torch.save({"same": same, "values": sum(t.numel() for t in every), "read": Counting.read}, out)


def test_a_rank_reads_its_own_rows(tmp_path: Path) -> None:
    # three classes of rows: those that two ranks share evenly, not evenly, and one row for both
    config = config_for(tmp_path, tmp_path, step={"shard": True}, model={"heads": 1, "width": 36})
    found = on_ranks(read_back, tmp_path / "out", config)
    assert found["same"]
    # rank 0 has the only row of some
    assert 0.49 < found["read"] / found["values"] < 0.6
