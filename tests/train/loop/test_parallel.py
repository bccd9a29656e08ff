"""Ranks, accumulation, sharding and recomputing change no number.

Planted bugs and the test that fails on each: a loss that is not divided by the micro-steps fails
`test_fifty_steps_are_the_same`; a snapshot that holds one rank's part fails
`test_a_checkpoint_of_two_ranks_goes_on_on_one_and_on_four`.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.runs import config_for, losses, records, run

from turbomim.pipeline.tars.split import Split
from turbomim.train.folder import checkpoint
from turbomim.train.models.mae import MAE

STEPS = 50


def settings(**sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Fifty steps of 8 samples, 12 epochs, from one checkpoint to the next."""
    return {
        **sections,
        "optim": {"epochs": 12, "base_lr": 5e-3, **sections.get("optim", {})},
        "run": {"save_every": STEPS, **sections.get("run", {})},
    }


def tensors(runs: Path, step: int) -> dict[str, torch.Tensor]:
    folder = runs / "r" / "ckpt" / f"step-{step:08d}"
    return {**load_file(folder / checkpoint.FILES[0]), **load_file(folder / checkpoint.FILES[1])}


@pytest.fixture(scope="module")
def one_rank(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all others must equal."""
    runs = tmp_path_factory.mktemp("one")
    heldout = {"heldout": str(tiny_split.folder)}
    run(config_for(tiny_split.folder, runs, **settings(data=heldout)))
    return runs


@pytest.mark.parametrize(
    ("world", "sections"),
    [
        (1, {"optim": {"micro_batch": 2}}),
        (2, {}),
        (2, {"optim": {"micro_batch": 1}}),
        (2, {"step": {"shard": True}}),
        (2, {"step": {"shard": True, "recompute": True}, "optim": {"micro_batch": 2}}),
    ],
    ids=["accumulated", "2 ranks", "2 ranks accumulated", "sharded", "sharded, recomputed"],
)
def test_fifty_steps_are_the_same(
    trees: Path, one_rank: Path, tmp_path: Path, world: int, sections: dict[str, dict[str, Any]]
) -> None:
    run(config_for(trees, tmp_path, **settings(data={"heldout": str(trees)}, **sections)), world)
    assert len(losses(one_rank / "r")) == STEPS
    assert losses(tmp_path / "r") == pytest.approx(losses(one_rank / "r"), abs=1e-6, rel=0)
    last, other = (records(runs / "r")[-1]["heldout_loss"] for runs in (one_rank, tmp_path))
    assert other == pytest.approx(last, abs=1e-6)
    norms, others = ([r["grad_norm"] for r in records(runs / "r")] for runs in (one_rank, tmp_path))
    assert others == pytest.approx(norms, rel=1e-4)
    ours, theirs = tensors(tmp_path, STEPS), tensors(one_rank, STEPS)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-4, rtol=1e-2, msg=name)


@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "sharded"])
def test_a_checkpoint_of_two_ranks_goes_on_on_one_and_on_four(
    trees: Path, one_rank: Path, tmp_path: Path, shard: bool
) -> None:
    """Saved on 2 ranks at step 20; each other number goes on from it, plain or sharded."""
    sections = settings(run={"save_every": 10, "keep": 100}, step={"shard": shard})
    run(config_for(trees, tmp_path, **sections), 2)
    for path in checkpoint.complete(tmp_path / "r" / "ckpt"):
        if checkpoint.read_state(path).step > 20:
            shutil.rmtree(path)
    for world, sharded in ((1, False), (4, True)):
        again = tmp_path / f"on-{world}"
        shutil.copytree(tmp_path / "r", again / "r")
        sections["step"] = {"shard": sharded}
        run(config_for(trees, again, **sections), world)
        assert "resumed from" in (again / "r" / "train.log").read_text()
        assert losses(again / "r") == pytest.approx(losses(one_rank / "r"), abs=1e-6, rel=0)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_recomputing_is_exact(tmp_path: Path, compiled: bool) -> None:
    """Every gradient, bit for bit in eager mode; in one compiled graph, as near as float32 is."""
    model = {"decoder_depth": 2}
    plain, again = (
        MAE(config_for(tmp_path, tmp_path, step={"recompute": recompute}, model=model))
        for recompute in (False, True)
    )
    assert backward(again, compiled) < 0.6 * backward(plain, compiled)
    for (name, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        if one.requires_grad:
            assert one.grad is not None and other.grad is not None
            if compiled:
                torch.testing.assert_close(other.grad, one.grad, atol=1e-7, rtol=1e-5, msg=name)
            else:
                assert torch.equal(one.grad, other.grad), name


def backward(model: MAE, compiled: bool) -> int:
    """Fill a model's gradients; return the values that were kept for it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=generator)
    # the backend that traces forward and backward as inductor's does, and needs no C++ compiler
    compiler = partial(torch.compile, fullgraph=True, dynamic=False, backend="aot_eager")
    call = compiler(model) if compiled else model
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = call(images, torch.zeros(6, dtype=torch.int64), torch.arange(6))
    loss.backward()
    return kept
