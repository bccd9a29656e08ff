"""Muon for the matrices inside the network, AdamW for the rest.

A matrix W of A rows and B columns, with gradient G and momentum M, at rate r, with weight decay d and
momentum m:

    M ← m M + (1 - m) G
    D ← m M + (1 - m) G                   (Nesterov)
    W ← (1 - r d) W - 0.2 √max(A, B) r O(D)

O is the orthogonalisation of orthogonal.py, in ns_steps steps.  The factor gives the step the root mean
square of an AdamW step, so that AdamW's rates and weight decay carry over.  Sources: K. Jordan,
kellerjordan.github.io/posts/muon; the factor: Moonshot, arXiv:2502.16982 sec. 2.2, torch.optim.Muon's
match_rms_adamw.  Torch's own class steps one matrix at a time, in bfloat16 alone, and knows no shards, no
scaler and no qkv.

Of several ranks each orthogonalises its share (shared.py).

Shapes: N weights of one shape, A rows, B columns, C rows of this rank, S weights of its share.
"""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from turbomim.train.models.sharding import own_part
from turbomim.train.optim.adamw import fused_adamw
from turbomim.train.optim.groups import Named, chosen, is_hidden_matrix, matrices_in, plain
from turbomim.train.optim.orthogonal import orthogonalised
from turbomim.train.optim.shared import on_split, on_whole
from turbomim.train.optim.state import KEEPS, MOMENTUM
from turbomim.train.settings.optim import OptimConfig
from turbomim.train.world.distributed import World

# root mean square of an AdamW step at rate 1, about
ADAMW_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Hidden matrices and the rest, as one optimizer.

    groups: of (name, parameter), the first at the full rate; bfloat16: of the products of the
    orthogonalisation; world: its ranks share these, and have the same gradients or parts of them.

    found_inf and grad_scale are set before a step, as torch's scaler sets them for a fused AdamW: a step with
    found_inf = 1 leaves weights and state as they are, and gradients are divided by grad_scale.  Both are
    read on the device.
    """

    found_inf: Tensor | None = None
    grad_scale: Tensor | None = None

    def __init__(self, groups: list[Named], optim: OptimConfig, *, bfloat16: bool, world: World) -> None:
        super().__init__(plain(chosen(groups, is_hidden_matrix)), {"lr": optim.lr, KEEPS: MOMENTUM})
        self._momentum, self._steps = optim.momentum, optim.ns_steps
        self._bfloat16, self._world = bfloat16, world
        # the weights that are stepped together: of one shape, with so many matrices in each
        self._alike = defaultdict[tuple[Any, ...], list[tuple[Tensor, dict[str, Any]]]](list)
        names = {param: name for group in groups for name, param in group["params"]}
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param] = {name: torch.zeros_like(param) for name in MOMENTUM}
                self._alike[matrices_in(names[param]), *param.shape].append((param, group))
        # loop and checkpoints see one optimizer
        self._rest = fused_adamw(plain(chosen(groups, lambda *one: not is_hidden_matrix(*one))), optim)
        self._rest.state = self.state
        self.param_groups = self._rest.param_groups + self.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step of every parameter."""
        for name in ("found_inf", "grad_scale"):
            setattr(self._rest, name, getattr(self, name))
        self._rest.step()
        for (matrices, *_), members in self._alike.items():
            self._step_alike(members, matrices)

    def _step_alike(self, members: list[tuple[Tensor, dict[str, Any]]], matrices: int) -> None:
        """Step weights of one shape, with their groups; of weights that are split, this rank's rows."""
        (first, _), *_ = members
        weights = [own_part(param) for param, _ in members]
        momenta = [own_part(self.state[param][MOMENTUM[0]]) for param, _ in members]
        gradients_NCB = torch.stack([own_part(param.grad) for param, _ in members if param.grad is not None])
        if self.grad_scale is not None:
            gradients_NCB = gradients_NCB / self.grad_scale
        momenta_NCB = torch.stack(momenta).lerp(gradients_NCB, 1 - self._momentum)
        moves_NCB = self._directions(gradients_NCB.lerp(momenta_NCB, self._momentum), first, matrices)
        weights_NCB = torch.stack(weights)
        scale = ADAMW_RMS * math.sqrt(max(len(first) // matrices, first.shape[1]))
        for weight, move, (_, group) in zip(weights_NCB, moves_NCB, members, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move, alpha=group["lr"] * scale)
        self._put(momenta, momenta_NCB)
        self._put(weights, weights_NCB)

    def _directions(self, wanted_NCB: Tensor, like: Tensor, matrices: int) -> Tensor:
        """The orthogonalised matrices of each weight; like: one of the weights."""

        def act(wanted_SAB: Tensor) -> Tensor:
            apart = wanted_SAB.reshape(len(wanted_SAB) * matrices, -1, wanted_SAB.shape[-1])
            return orthogonalised(apart, self._steps).reshape(wanted_SAB.shape)

        # what is sent is as wide as what is computed
        wanted_NCB = wanted_NCB.to(torch.bfloat16 if self._bfloat16 else torch.float32)
        if isinstance(like, DTensor):
            return on_split(wanted_NCB, act, like)
        return on_whole(wanted_NCB, act, self._world.rank, self._world.size)

    def _put(self, old: list[Tensor], new_NCB: Tensor) -> None:
        """Put the new values in place, unless the step is not finite: then the old ones stay, bit for bit."""
        if self.found_inf is not None:
            new_NCB = torch.where(self.found_inf.bool(), torch.stack(old), new_NCB)
        torch._foreach_copy_(old, list(new_NCB.unbind()))
