"""The published linear probe's head: batch norm without affine and a linear layer, by LARS.

LARS scales a matrix's gradient by 0.001 x |weight| / |gradient|, then comes momentum, then the rate; vectors
are left as they are.  Source: arXiv:1708.03888 as MAE's probe has it; timm's Lars does the same, with 1e-8
beside the gradient's norm.  Shapes: B samples of a step, N samples, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.nn import functional

from turbomim.pipeline.stream.order import sample_ids
from turbomim.train.models.initial import constant, initialise, normal
from turbomim.train.settings.config import OptimConfig

MOMENTUM = 0.9
TRUST = 0.001
# samples scored at once
CHUNK = 4096

# (features (B, D) float32, labels (B,) int64), one item a step
Batches = Iterator[tuple[Tensor, Tensor]]


def published_optim(*, epochs: float, warmup_epochs: float, base_lr: float, batch: int) -> OptimConfig:
    """The published schedule: linear warm-up from 0, cosine to 0, the rate for 256 samples, no decay."""
    return OptimConfig(
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        base_lr=base_lr,
        lr_batch=256,
        global_batch=batch,
        weight_decay=0.0,
    )


def make_head(width: int, classes: int, seed: int) -> nn.Sequential:
    """Batch norm (eps 1e-6) and a linear layer, weights normal with deviation 0.01."""
    linear = nn.Linear(width, classes)
    initialise(linear, {"weight": normal(0.01), "bias": constant(0)}, seed)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear)


def make_lars(head: nn.Module) -> torch.optim.Optimizer:
    """LARS over a head's parameters, without weight decay."""
    matrices = [p for p in head.parameters() if p.ndim > 1]
    vectors = [p for p in head.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "always_adapt": True}, {"params": vectors, "always_adapt": False}]
    # not every timm has its annotations
    make: Callable[..., torch.optim.Optimizer] = Lars
    return make(groups, momentum=MOMENTUM, weight_decay=0.0, trust_coeff=TRUST)


def train_head(head: nn.Module, batches: Batches, steps: int, lr: Callable[[int], float]) -> None:
    """Take so many steps of LARS on mean cross-entropy; `lr` is the rate of a step, the first being 0."""
    optimizer = make_lars(head)
    head.train()
    for step in range(steps):
        features_BD, labels_B = next(batches)
        loss = functional.cross_entropy(head(features_BD), labels_B)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        optimizer.step()
    head.eval()


def cached_batches(
    features_ND: Tensor, labels_N: Tensor, batch: int, seed: int, device: torch.device
) -> Batches:
    """Batches of features kept in memory, each epoch in an order of its own, epochs behind one another."""
    start = 0
    while True:
        _, ids = sample_ids(np.arange(start, start + batch), len(labels_N), seed)
        chosen = torch.from_numpy(ids)
        yield features_ND[chosen].to(device), labels_N[chosen].to(device)
        start += batch


@torch.no_grad()
def head_scores(
    head: nn.Module, features_ND: Tensor, labels_N: Tensor, device: torch.device
) -> dict[str, float]:
    """Shares of samples whose class is the first, or among the first five, of a head's scores.

    Of five classes or fewer every one is among the first five, and there is no such share.
    """
    first = five = classes = 0
    for start in range(0, len(labels_N), CHUNK):
        logits_BK = head(features_ND[start : start + CHUNK].to(device))
        classes = logits_BK.shape[1]
        best = logits_BK.topk(min(5, classes)).indices
        hits = best == labels_N[start : start + CHUNK, None].to(device)
        first, five = first + int(hits[:, 0].sum()), five + int(hits.sum())
    top1 = {"top1": first / len(labels_N)}
    return {**top1, "top5": five / len(labels_N)} if classes > 5 else top1
